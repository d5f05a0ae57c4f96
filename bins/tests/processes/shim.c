/* Loaded into a server before its libc, this gives it a disk that takes its time and a clock that is off. How much is in
 * the files `$SHIM.sync_ms` and `$SHIM.clock_s`, read at every call, so that a test may change it while the server runs.
 * Where there is no file, nothing is changed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long setting(const char *name) {
    const char *at = getenv("SHIM");
    char path[512], text[32];
    if (at == NULL || snprintf(path, sizeof path, "%s.%s", at, name) >= (int)sizeof path)
        return 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    return strtol(text, NULL, 10);
}

static void wait_for_the_disk(void) {
    long ms = setting("sync_ms");
    struct timespec span = {ms / 1000, ms % 1000 * 1000000};
    if (ms > 0)
        nanosleep(&span, NULL);
}

int fdatasync(int file) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_for_the_disk();
    return next(file);
}

int fsync(int file) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_for_the_disk();
    return next(file);
}

/* Only the time of day is off: leases and timeouts run on the monotonic clock, which nobody sets. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*next)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += setting("clock_s");
    return result;
}

//! Disks of a test's own: file systems on loop devices, whose power can be cut, and small ones in memory.
//!
//! This needs root. They are mounted below the test's directory, and go when dropped, also where a test panics: declare
//! them before the processes that use them, so that those go first.

use std::path::{Path, PathBuf};
use std::process::Command;

/// First the processes, then the disks: `EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`, from which on nothing reaches the device any
/// more, not even the journal. The standard library has no ioctl, so Python makes it.
///
/// The processes must go too: ext4 may tell success to whoever syncs at that moment and is still there to hear it. Killed
/// before, their syncs that are under way end in the kernel, during the cut, and come back to nobody.
const CUT: &str = "import fcntl, os, signal, struct, sys
disks = [os.open(path, os.O_RDONLY) for path in sys.argv[2:]]
for process in sys.argv[1].split():
    os.kill(int(process), signal.SIGKILL)
for disk in disks:
    fcntl.ioctl(disk, 0x8004587d, struct.pack('I', 2))";

/// A mounted file system.
pub(crate) struct Mount {
    at: PathBuf,
    /// What a disk holds; none in memory.
    image: Option<PathBuf>,
}

impl Mount {
    /// A file system in memory, of so many KiB.
    pub(crate) fn memory(at: PathBuf, kib: u64) -> Self {
        std::fs::create_dir(&at).expect("a directory");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "dsv2-test", text(&at)]);
        Self { at, image: None }
    }

    /// Gives a file system in memory another size.
    pub(crate) fn resize(&self, kib: u64) {
        run("mount", &["-o", &format!("remount,size={kib}k"), text(&self.at)]);
    }

    /// From now on nobody can write there.
    pub(crate) fn make_read_only(&self) {
        run("mount", &["-o", "remount,ro", text(&self.at)]);
    }

    /// ext4 on a loop device over a file, of so many MiB.
    pub(crate) fn disk(at: PathBuf, mib: u64) -> Self {
        let image = at.with_extension("img");
        std::fs::create_dir(&at).expect("a directory");
        std::fs::File::create_new(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        run("mkfs.ext4", &["-q", "-F", text(&image)]);
        let mount = Self { at, image: Some(image) };
        mount.mount_image();
        mount
    }

    fn mount_image(&self) {
        let image = self.image.as_ref().expect("a disk, and not memory");
        run("mount", &["-o", "loop", text(image), text(&self.at)]);
    }

    /// Cuts the power of a machine: within a millisecond its processes are killed, and its disks keep what was synced only.
    pub(crate) fn cut_power(processes: &[u32], disks: &[Self]) {
        let processes = processes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let disks = disks.iter().map(|disk| text(&disk.at));
        run("python3", &["-c", CUT, &processes].into_iter().chain(disks).collect::<Vec<_>>());
    }

    /// Mounts a disk again after a power cut. Nothing may use it any more.
    pub(crate) fn restore_power(&self) {
        run("umount", &[text(&self.at)]);
        self.mount_image();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmount = |how: &[&str]| Command::new("umount").args(how).arg(&self.at).output();
        // A process that outlives its test keeps nothing but itself busy.
        let _gone = unmount(&[]).is_ok_and(|output| output.status.success()) || unmount(&["-l"]).is_ok();
    }
}

/// Whether loop devices are missing here, though root would be allowed to use them.
pub(crate) fn without_loop_devices() -> bool {
    let missing = !Path::new("/dev/loop-control").exists();
    if missing {
        println!("left out: this machine has no loop devices (/dev/loop-control)");
    }
    missing
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of our own")
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|why| panic!("{program}: {why}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

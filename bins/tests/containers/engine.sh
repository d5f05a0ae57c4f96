# A container engine of our own, for session.sh, which reads this file. Nothing of it is left behind but the packages that it needed,
# and nobody else's engine, network or images are touched.
#
# engine_start DIR         an engine in DIR; DOCKER_HOST names it. Returns 1 with a reason in ENGINE_WHY where none can be.
# engine_base CACHE DIR    the image dsv2-test-base in it: a minimal Debian, which is made once and kept in CACHE, and can run
#                          the programs in DIR. Returns as above.
# engine_stop DIR          ends it, and removes DIR and the network namespace.

ENGINE_WHY=
ENGINE_PID=
ENGINE_NET="dsv2-engine-$$"
ENGINE_RELEASE=bookworm

engine_tools() {
    local missing=()
    for tool in dockerd docker docker-compose iptables debootstrap ip script; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ "${#missing[@]}" = 0 ] && return
    echo "engine: installing, because of ${missing[*]}" >&2
    # A package may try to start a service, which this is not the place for.
    { timeout --foreground 60 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout --foreground 180 apt-get install -y -qq --no-install-recommends \
        docker.io docker-compose iptables debootstrap iproute2 bsdutils; } >/dev/null 2>&1 && return
    ENGINE_WHY="the packages for ${missing[*]} cannot be installed"
    return 1
}

# The session reads what version 1 prints.
engine_compose() {
    local version
    version=$(timeout 30 docker-compose version --short 2>/dev/null)
    [[ $version == 1.* ]] && return
    ENGINE_WHY="docker-compose 1 is wanted, and here is ${version:-none that runs}"
    return 1
}

engine_start() {
    local dir=$1
    [ "$(id -u)" = 0 ] || { ENGINE_WHY="only root can start one"; return 1; }
    engine_tools && engine_compose || return 1
    mkdir -p "$dir"
    ip netns add "$ENGINE_NET" 2>/dev/null || { ENGINE_WHY="no network namespace can be made"; return 1; }
    ip -n "$ENGINE_NET" link set lo up
    # A namespace of its own, because an engine changes the rules of the one that it runs in. `ip netns exec` would hide the
    # control groups behind a /sys of its own, so only the network is entered.
    nsenter --net="/run/netns/$ENGINE_NET" dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
        --host "unix://$dir/docker.sock" >"$dir/dockerd.log" 2>&1 &
    ENGINE_PID=$!
    export DOCKER_HOST="unix://$dir/docker.sock"
    local deadline=$((SECONDS + 45))
    until timeout 5 docker version >/dev/null 2>&1; do
        if ! kill -0 "$ENGINE_PID" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            ENGINE_WHY="dockerd does not start: $(tail -n 3 "$dir/dockerd.log")"
            return 1
        fi
        sleep 0.2
    done
}

engine_base() {
    local root=$1/base-$ENGINE_RELEASE.tar
    if [ ! -f "$root" ]; then
        local work
        work=$(mktemp -d "$1/base-XXXXXX")
        timeout --foreground 200 debootstrap --variant=minbase "$ENGINE_RELEASE" "$work/root" >"$work/log" 2>&1 &&
            rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists" "$work/root/usr/share/doc" "$work/root/usr/share/locale" &&
            tar -C "$work/root" -c . >"$work/tar" && mv "$work/tar" "$root" ||
            { ENGINE_WHY="the base image cannot be made: $(tail -n 3 "$work/log")"; rm -rf --one-file-system "$work"; return 1; }
        rm -rf --one-file-system "$work"
    fi
    timeout 120 docker import "$root" dsv2-test-base:local >/dev/null || { ENGINE_WHY="the base image cannot be imported"; return 1; }
    # An engine may run where its containers cannot, as within another engine's container.
    local said
    said=$(timeout 60 docker run --rm --volume "$2:/programs:ro" dsv2-test-base:local /programs/dsv2 --version 2>&1) ||
        { ENGINE_WHY="no container can run the programs: $said"; return 1; }
}

engine_stop() {
    local dir=$1
    if [ -n "$ENGINE_PID" ] && kill -TERM "$ENGINE_PID" 2>/dev/null; then
        local deadline=$((SECONDS + 30))
        while kill -0 "$ENGINE_PID" 2>/dev/null; do
            [ "$SECONDS" -ge "$deadline" ] && kill -KILL "$ENGINE_PID" 2>/dev/null
            [ "$SECONDS" -ge "$((deadline + 5))" ] && break
            sleep 0.1
        done
        wait "$ENGINE_PID" 2>/dev/null
    fi
    [ -e "/run/netns/$ENGINE_NET" ] && ip netns delete "$ENGINE_NET"
    # What the engine mounted below its directories goes first.
    { mount | awk '{print $3}' | grep "^$dir/" | sort -r | xargs -r umount -l; } 2>/dev/null
    rm -rf --one-file-system "$dir"
}

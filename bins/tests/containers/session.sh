#!/usr/bin/env bash
# The assignment's session with docker-compose, each of its commands as it is written there, on a real engine.
#
# usage: session.sh [TRANSCRIPT]     the transcript, in Markdown, goes to that file
#
# DSV2_BINARIES          where the programs are that go into the image; target/debug by default
# DSV2_CONTAINERS_DIR    where the base image is kept; target/containers by default
# DSV2_DOCKER=1          insists: without it a machine on which no engine can be started leaves this out, and says so
#
# Needs root and Debian's packages; installs those that are missing. Takes two and a half minutes, and one more for the first base image.
# The transcript in the documentation is made by: bins/tests/containers/session.sh docs/operations/compose-session.md
set -uo pipefail
# Commands in containers would read what was typed for somebody else.
exec </dev/null

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../../.." || exit 1
. "$here/engine.sh"
. "$here/terminal.sh"

BINARIES=${DSV2_BINARIES:-target/debug}
CACHE=${DSV2_CONTAINERS_DIR:-$PWD/target/containers}
SAVE_AS=${1:-}
mkdir -p "$CACHE"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/dsv2-session-XXXXXX")
TRANSCRIPT=$WORK/transcript
: >"$TRANSCRIPT"
# Nothing of the caller's environment changes what is tested; the names of containers are in the transcript.
unset SERDE SERVER_NAME DSV2_SERVER_VOTERS DSV2_SERVER_LEVEL DSV2_PUBLISH_AT RUST_LOG BUILDER COMPOSE_FILE DOCKER_CONTEXT DOCKER_BUILDKIT
export COMPOSE_PROJECT_NAME=dsv2 RUNTIME=dsv2-test-base:local BUILD_TARGET=prebuilt DOCKER_CONFIG=$WORK/config

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if [ "$status" != 0 ] && [ -S "$WORK/engine/docker.sock" ]; then
        { timeout 15 docker-compose ps; timeout 15 docker-compose logs --no-color --tail=15; } >&2 2>&1
    fi
    end_all
    [ -S "$WORK/engine/docker.sock" ] && timeout 30 docker-compose down -v --timeout 1 >/dev/null 2>&1
    engine_stop "$WORK/engine"
    rm -rf "$WORK"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

leave_out() {
    [ "${DSV2_DOCKER:-}" = 1 ] && fail "no container engine: $ENGINE_WHY"
    echo "left out: the compose session needs a container engine, and here is none: $ENGINE_WHY"
    exit 0
}

# The programs, without what only a debugger reads, in the place from which the stage `prebuilt` takes them.
stage_programs() {
    rm -rf target/image && mkdir -p target/image
    for program in dsv2 dsv2-broker dsv2-proxy dsv2-server dsv2-reference dsv2-client dsv2-bot; do
        [ -x "$BINARIES/$program" ] || fail "there is no $BINARIES/$program: cargo build -p dsv2-bins, or DSV2_BINARIES"
        cp "$BINARIES/$program" target/image/ || exit 1
        strip "target/image/$program" 2>/dev/null
    done
}

containers() { docker-compose ps -q "$@"; }

# Whether so many containers are there, of the services given, and all of them are healthy.
all_healthy() {
    local wanted=$1 ids
    shift
    mapfile -t ids < <(containers "$@")
    [ "${#ids[@]}" = "$wanted" ] && [ "$(docker inspect --format '{{.State.Health.Status}}' "${ids[@]}" | grep -cx healthy)" = "$wanted" ]
}

# All that is in the session is there for the shell of a client.
client() { docker-compose exec -T client "$@"; }

# What each server is called, where its data is, and the random identity of that, one a line.
servers() {
    local id
    for id in $(containers server); do
        docker exec "$id" bash -c 'printf "%s %s\n" "$(readlink -f /data)" "$(grep -o "\"node\":\"[0-9a-f]*\"" /data/meta.json)"' || return 1
    done | sort
}

# Whether every server has a line in a file of its data.
every_server_has() {
    local file=$1 text=$2 wanted=$3 found=0 id
    for id in $(containers server); do
        docker exec "$id" grep -q -- "$text" "/data/$file" && found=$((found + 1))
    done
    [ "$found" = "$wanted" ]
}

# Whether all containers of a service ended, each with success: asked to end they finish what they began.
ended_well() {
    local ids
    mapfile -t ids < <(containers "$@")
    [ "${#ids[@]}" -gt 0 ] &&
        [ "$(docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' "${ids[@]}" | sort -u)" = "exited 0" ]
}

must() { "${@:2}" || fail "$1"; }

. "$here/parts.sh"

engine_start "$WORK/engine" || leave_out
engine_base "$CACHE" "$(cd "$BINARIES" && pwd)" || leave_out
stage_programs
begun=$SECONDS
for part in part_1 part_2 part_3 part_4 part_5 recreated majorities removed alone; do
    "$part"
    echo "session: $part after $((SECONDS - begun)) s"
done
if [ -n "$SAVE_AS" ]; then
    cp "$TRANSCRIPT" "$SAVE_AS"
fi
echo "session: every command of the assignment did what it is there for, in $((SECONDS - begun)) s"

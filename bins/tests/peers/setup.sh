#!/usr/bin/env bash
# Installs what the foreign peers need: a Python venv and node_modules, under $DSV2_PEERS_DIR (default: target/peers of
# this repository). Safe to call from many tests at once; does nothing when all is up to date.
# Prints the interpreters as `python=PATH` and `node=PATH`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${DSV2_PEERS_DIR:-$here/../../../target/peers}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

for tool in python3 node npm flock; do
    command -v "$tool" >/dev/null || { echo "setup.sh: $tool is not installed" >&2; exit 3; }
done

exec 9>"$dir/lock"
flock -w 600 9 || { echo "setup.sh: another setup holds $dir/lock" >&2; exit 3; }

wanted=$({ cat "$here/python/requirements.txt" "$here/node/package-lock.json" "$here/node/.npmrc"
           python3 --version; node --version; } | sha256sum)
if [[ ! -f $dir/stamp || $(<"$dir/stamp") != "$wanted" ]]; then
    rm -rf "$dir/stamp" "$dir/venv" "$dir/node"
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt" >&2
    mkdir "$dir/node"
    cp "$here/node/package.json" "$here/node/package-lock.json" "$here/node/.npmrc" "$dir/node/"
    (cd "$dir/node" && npm ci --silent >&2)
    "$dir/venv/bin/python" -c 'import zmq, msgpack'
    (cd "$dir/node" && node -e 'require("zeromq"); require("@msgpack/msgpack")')
    printf '%s' "$wanted" >"$dir/stamp"
fi

echo "python=$dir/venv/bin/python"
echo "node=$(command -v node)"

#!/usr/bin/env bash
# The container of node/dist/Containerfile: built, run as it says, asked, stopped.
#   bash tests/container.sh [PATH-OF-P2P-CACHE]
# No image is pulled: the fresh Debian that tests/packaging.sh keeps stands for both base images, and the program that is
# compiled already for what `cargo build` would make. Needs root and buildah; where one is missing it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:-target/debug/p2p-cache}")
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
base=$(pwd)/target/packaging/$release.tar
step() { printf 'container: %s (%ss)\n' "$1" "$SECONDS"; }
skip() { echo "skipped: the container ($1)"; exit 0; }
fail() { echo "container: $1" >&2; exit 1; }

[ -x "$binary" ] || fail "no $binary: cargo build --workspace"
[ "$(id -u)" = 0 ] || skip "needs root"
for tool in buildah unshare ip curl python3; do
    command -v "$tool" >/dev/null || skip "no $tool"
done
[ -s "$base" ] || skip "no fresh Debian: tests/packaging.sh makes it"
grep -q "debian:$release-slim" node/dist/Containerfile || skip "this machine is not of the release of the image"
unshare --net --mount true 2>/dev/null || skip "no namespaces"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
buildah() { command buildah --root "$work/store" --runroot "$work/run" "$@"; }

step "base images"
debian=$(buildah from scratch 2>"$work/log") || skip "buildah cannot work here: $(tail -1 "$work/log")"
buildah add --quiet "$debian" "$base" / >/dev/null
buildah commit --quiet "$debian" docker.io/library/debian:bookworm-slim >/dev/null
# The first stage needs a compiler only to make the program: one that hands over what is compiled, if it is asked for that.
cat >"$work/cargo" <<'CARGO'
#!/bin/sh
set -eu
[ "$*" = "build --release --locked --package p2p-cache" ] || { echo "another command than was expected: $*" >&2; exit 1; }
[ -f Cargo.lock ] && [ ! -e .git ] && [ ! -e target ] || { echo "not the sources alone" >&2; exit 1; }
install -D /compiled target/release/p2p-cache
CARGO
chmod +x "$work/cargo"
strip --strip-debug -o "$work/compiled" "$binary"
buildah add --quiet "$debian" "$work/compiled" /compiled >/dev/null
buildah add --quiet "$debian" "$work/cargo" /usr/local/bin/cargo >/dev/null
image=$(sed -n 's/^FROM \(.*\) AS build$/\1/p' node/dist/Containerfile)
buildah commit --quiet --rm "$debian" "$image" >/dev/null

step "build"
if ! buildah bud --quiet --pull-never --format docker --file node/dist/Containerfile --tag p2p-cache . >"$work/log" 2>&1; then
    # Its packages come from a mirror.
    ! grep -qE "Could not resolve|Unable to connect|Failed to fetch" "$work/log" || skip "no Debian mirror"
    tail -20 "$work/log" >&2
    fail "it does not build"
fi

step "run"
container=$(buildah from --pull-never p2p-cache)
# The words of a list of the image's configuration, one a line.
words() {
    buildah inspect --type image p2p-cache |
        python3 -c 'import json, sys; print("\n".join(json.load(sys.stdin)["Docker"]["config"][sys.argv[1]][int(sys.argv[2]):]))' "$@"
}
mapfile -t command < <(words Entrypoint 0; words Cmd 0)
[ "${command[*]}" = "p2p-cache serve" ] || fail "it runs ${command[*]}"
cat >"$work/inside.sh" <<INSIDE
set -euo pipefail
ip link set lo up
run() { buildah --root "$work/store" --runroot "$work/run" run "$container" -- "\$@"; }
run ${command[*]} >"$work/ready" 2>"$work/daemon" &
for _ in \$(seq 300); do grep -q ^ready "$work/ready" && break; sleep 0.1; done
curl --silent --fail --max-time 10 http://127.0.0.1:5380/nix-cache-info | grep --quiet 'Priority: 30'
# What the image's HEALTHCHECK asks.
run p2p-cache status >"$work/status"
head -c 3000000 /dev/urandom >"$work/blob"
sum=\$(sha256sum <"$work/blob" | cut -d' ' -f1)
curl --silent --fail --max-time 30 --upload-file "$work/blob" "http://127.0.0.1:5380/blobs/sha256/\$sum" >/dev/null
curl --silent --fail --max-time 30 "http://127.0.0.1:5380/blobs/sha256/\$sum" | cmp - "$work/blob"
[ "\$(ps -o uid= -C p2p-cache | tr -d ' ' | sort -u)" = 65532 ]
pkill -TERM -x p2p-cache
wait %1
INSIDE
unshare --net --pid --fork --mount-proc --kill-child bash "$work/inside.sh" ||
    { cat "$work/ready" "$work/daemon" >&2; fail "it does not run"; }
step "done"

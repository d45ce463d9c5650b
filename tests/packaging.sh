#!/usr/bin/env bash
# The Debian package: built from a compiled program, looked at, installed in a fresh Debian, run as its unit says, removed.
#   bash tests/packaging.sh [PATH-OF-P2P-CACHE]
# Needs root, Debian's tools and a Debian mirror; where one is missing it says so and passes. The fresh system is kept in
# target/packaging for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:-target/debug/p2p-cache}")
kept=$(pwd)/target/packaging
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
step() { printf 'packaging: %s (%ss)\n' "$1" "$SECONDS"; }
skip() { echo "skipped: the Debian package ($1)"; exit 0; }
fail() { echo "packaging: $1" >&2; exit 1; }

[ -x "$binary" ] || fail "no $binary: cargo build --workspace"
[ "$(id -u)" = 0 ] || skip "needs root"
for tool in cargo dpkg-deb debootstrap systemd-socket-activate systemd-analyze strace unshare ip curl; do
    command -v "$tool" >/dev/null || skip "no $tool"
done
unshare --net --mount true 2>/dev/null || skip "no namespaces"
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# The program was linked against this machine's libraries: the fresh system has to be of the same release.
[ "$(. /etc/os-release && echo "${ID:-}")" = debian ] || skip "not Debian"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$kept"

step "build"
# Quick instead of small: a program with debugging information compresses slowly.
package=$(bash node/dist/deb.sh "$binary" --fast --strip --output "$work/p2p-cache.deb" | tail -1)

step "look"
dpkg-deb --contents "$package" | awk '{print $6}' >"$work/contents"
for path in usr/bin/p2p-cache usr/lib/systemd/system/p2p-cache.service usr/lib/systemd/system/p2p-cache.socket \
    etc/p2p-cache/p2p-cache.toml usr/share/man/man1/p2p-cache.1.gz usr/share/man/man1/p2p-cache-serve.1.gz \
    usr/share/bash-completion/completions/p2p-cache usr/share/zsh/vendor-completions/_p2p-cache \
    usr/share/fish/vendor_completions.d/p2p-cache.fish; do
    grep -qx "./$path" "$work/contents" || fail "the package lacks $path"
done
! grep generate "$work/contents" || fail "a hidden command has a manual page"
if command -v lintian >/dev/null; then
    # There is no upload to Debian that could be announced.
    lintian --allow-root --fail-on error,warning --suppress-tags no-changelog,initial-upload-closes-no-bugs "$package" ||
        fail "lintian complains"
fi

step "a fresh Debian"
base=$kept/$release.tar
if [ ! -s "$base" ]; then
    debootstrap --variant=minbase --include=ca-certificates "$release" "$work/base" "$mirror" >"$work/log" 2>&1 ||
        { tail -5 "$work/log" >&2; skip "no fresh system from $mirror"; }
    tar --directory "$work/base" --create --file "$base.part" .
    mv "$base.part" "$base"
fi
root=$work/root
mkdir -p "$root"
tar --directory "$root" --extract --file "$base"

step "install"
cp "$package" "$root/tmp/p2p-cache.deb"
chroot "$root" dpkg --install /tmp/p2p-cache.deb >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "it does not install"; }
chroot "$root" p2p-cache config --check >/dev/null
for unit in sockets.target.wants/p2p-cache.socket multi-user.target.wants/p2p-cache.service; do
    [ -L "$root/etc/systemd/system/$unit" ] || fail "$unit is not enabled"
done
units=("$root/usr/lib/systemd/system/p2p-cache.service" "$root/usr/lib/systemd/system/p2p-cache.socket")
cp "${units[@]}" "$work"
# The program is in the fresh system, not here.
sed -i "s|^ExecStart=/usr|ExecStart=$root/usr|; s|^ExecReload=/usr|ExecReload=$root/usr|" "$work/p2p-cache.service"
complaints=$(systemd-analyze verify --man=no "$work/p2p-cache.service" "$work/p2p-cache.socket" 2>&1) && [ -z "$complaints" ] ||
    fail "systemd says: $complaints"

step "run"
# As the unit says: started by its socket, as another user, in a network of its own, with nothing but its state directory.
command=$(sed -n 's/^ExecStart=//p' "${units[0]}")
listen=$(sed -n 's/^ListenStream=//p' "${units[1]}")
# A machine with Nix has a store, which the daemon reads.
! command -v nix-store >/dev/null || NIX_REMOTE="local?root=$root" nix-store --add "$package" >/dev/null
: >"$work/daemon"
install -d -m 700 -o 65534 -g 65534 "$root/var/lib/p2p-cache"
cat >"$work/run.sh" <<RUN
set -euo pipefail
ip link set lo up
mount -t proc proc "$root/proc"
export STATE_DIRECTORY=/var/lib/p2p-cache
strace --follow-forks --output="$work/calls" \
    systemd-socket-activate --listen="$listen" --setenv=STATE_DIRECTORY --setenv=RUST_BACKTRACE=1 \
    chroot --userspec=65534:65534 "$root" $command 2>"$work/daemon" >"$work/ready" &
activate=\$!
for _ in \$(seq 100); do grep -q Listening "$work/daemon" && break; sleep 0.1; done
curl --silent --fail --max-time 60 "http://$listen/nix-cache-info" | grep --quiet 'Priority: 30'
chroot "$root" p2p-cache status >/dev/null
head -c 3000000 /dev/urandom >"$root/tmp/blob"
digest=\$(chroot "$root" p2p-cache put /tmp/blob | head -1)
chroot "$root" p2p-cache get "\$digest" -o /tmp/again >/dev/null
cmp "$root/tmp/blob" "$root/tmp/again"
kill -TERM "\$(pgrep --parent "\$activate" | head -1)"
wait "\$activate"
RUN
unshare --net --mount-proc --pid --fork --kill-child bash "$work/run.sh" || { cat "$work/daemon" >&2; fail "it does not run"; }
[ -s "$root/var/lib/p2p-cache/node.key" ] || fail "it has kept no state"

step "system calls"
python3 tests/syscalls.py "${units[0]}" "$work/calls"

step "remove"
chroot "$root" dpkg --purge p2p-cache >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "it cannot be removed"; }
for path in usr/bin/p2p-cache etc/p2p-cache var/lib/p2p-cache var/lib/private/p2p-cache; do
    [ ! -e "$root/$path" ] || fail "$path is left"
done
step "done"

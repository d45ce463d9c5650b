#!/usr/bin/env bash
# The service under a real systemd: started, confined, reloaded, killed, hung, misconfigured, stopped.
#   bash tests/systemd.sh [PATH-OF-P2P-CACHE]
# A fresh Debian with systemd as its first process, in namespaces of its own; the package is installed in it. Needs root and
# what tests/packaging.sh keeps; where something is missing, or systemd cannot boot, it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:-target/debug/p2p-cache}")
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
base=$(pwd)/target/packaging/$release.tar
booting=$(pwd)/target/packaging/$release-systemd.tar
step() { printf 'systemd: %s (%ss)\n' "$1" "$SECONDS"; }
skip() { echo "skipped: the service under systemd ($1)"; exit 0; }
fail() { echo "systemd: $1" >&2; exit 1; }

[ -x "$binary" ] || fail "no $binary: cargo build --workspace"
[ "$(id -u)" = 0 ] || skip "needs root"
for tool in dpkg-deb unshare nsenter ip pgrep; do
    command -v "$tool" >/dev/null || skip "no $tool"
done
[ -s "$base" ] || skip "no fresh Debian: tests/packaging.sh makes it"
unshare --pid --mount --uts --ipc --net --cgroup --fork true 2>/dev/null || skip "no namespaces"

work=$(mktemp -d)
root=$work/root
trap 'kill -KILL "${machine:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$root"

step "a fresh Debian"
if [ ! -s "$booting" ]; then
    tar --directory "$root" --extract --file "$base"
    cp /etc/resolv.conf "$root/etc/"
    unshare --mount --fork bash -c "mount -t proc proc '$root/proc' && chroot '$root' sh -c 'apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd systemd-sysv dbus curl procps'" \
        >"$work/log" 2>&1 || { tail -3 "$work/log" >&2; skip "no Debian mirror"; }
    tar --directory "$root" --create --file "$booting.part" .
    mv "$booting.part" "$booting"
else
    tar --directory "$root" --extract --file "$booting"
fi
package=$(bash node/dist/deb.sh "$binary" --fast --strip --output "$work/p2p-cache.deb" | tail -1)
cp "$package" "$root/root/p2p-cache.deb"
chroot "$root" dpkg --install /root/p2p-cache.deb >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "it does not install"; }
mkdir -p "$root/nix/store"
cp tests/systemd-inside.sh "$root/root/inside.sh"

step "boot"
cat >"$work/boot.sh" <<BOOT
set -e
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
for directory in run tmp dev sys/fs/cgroup; do mount -t tmpfs -o mode=755 tmpfs \$directory; done
for device in null zero full random urandom tty; do touch dev/\$device; mount --bind /dev/\$device dev/\$device; done
mkdir dev/shm dev/pts sys/fs/cgroup/unified sys/fs/cgroup/systemd
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd systemd sys/fs/cgroup/systemd || {
    umount sys/fs/cgroup/unified sys/fs/cgroup
    mount -t cgroup2 cgroup2 sys/fs/cgroup
}
ip link set lo up
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console
BOOT
setsid unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child bash "$work/boot.sh" >"$work/console" 2>&1 </dev/null &
machine=$!
inside() { setsid nsenter --target "$init" --all --root "$@" </dev/null; }
for _ in $(seq 300); do
    init=$(pgrep --parent "$machine" --full '/systemd/systemd' || true)
    [ -n "$init" ] && inside timeout 90 systemctl is-system-running --wait >"$work/state" 2>/dev/null && break
    grep -q degraded "$work/state" 2>/dev/null && break
    kill -0 "$machine" 2>/dev/null || break
    sleep 0.2
done
grep -qE 'running|degraded' "$work/state" 2>/dev/null || { tail -5 "$work/console" >&2; skip "systemd does not boot here"; }

step "run"
inside timeout 300 bash /root/inside.sh >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    inside journalctl --no-pager --unit p2p-cache --lines 40 >&2
    fail "it does not run as it should"
}
grep '^checked' "$work/log"
step "done"

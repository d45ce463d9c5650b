# What tests/systemd.sh runs inside: the service as its administrator meets it. Each line of output is a check that held.
set -euo pipefail
url=http://127.0.0.1:5380
property() { systemctl show --property "$1" --value p2p-cache; }
checked() { echo "checked: $1"; }
answers() { curl --silent --fail --max-time 20 --output /dev/null "$url/nix-cache-info"; }
# Signals to pid 0 would go to ourselves.
pid() { local pid; pid=$(property MainPID); [ "$pid" -gt 1 ]; echo "$pid"; }
refuses() { if "$@" 2>/dev/null; then echo "went well, and should not: $*" >&2; return 1; fi; }
eventually() { for _ in $(seq 100); do "$@" && return; sleep 0.2; done; echo "waited in vain: $*" >&2; return 1; }

eventually systemctl is-active --quiet p2p-cache.service
answers
p2p-cache status >/dev/null
checked "the package enables and starts it, and it says when it is ready"

status=/proc/$(pid)/status
[ "$(awk '/^Uid/ {print $2}' "$status")" -gt 60000 ]
for line in 'CapEff:	0000000000000000' 'CapBnd:	0000000000000000' 'NoNewPrivs:	1' 'Seccomp:	2'; do
    grep -qx "$line" "$status"
done
for place in /etc /usr /var /nix; do
    refuses nsenter --target "$(pid)" --mount touch "$place/p2p-cache-was-here"
done
[ "$(stat --format %a /var/lib/private/p2p-cache)" = 700 ]
checked "a user of its own, no capability, a filter of system calls, a file system that it cannot write to"

# A thread may end meanwhile; what is behind a pipe reads all of it.
classes() { for task in /proc/"$(pid)"/task/*; do ionice -p "${task##*/}" 2>/dev/null || true; done; }
hashes_idly() { classes | grep -x idle >/dev/null; }
eventually hashes_idly
checked "hashing in the background may lower its priority, for disks too"

[ "$(journalctl --unit p2p-cache --output json | grep -c '"PRIORITY":"6"')" -gt 0 ]
checked "the journal has its messages with their levels"

head -c 2000000 /dev/urandom >/tmp/blob
digest=$(p2p-cache put /tmp/blob | head -1)
systemctl restart p2p-cache
p2p-cache get "$digest" --output /tmp/again >/dev/null
cmp /tmp/blob /tmp/again
checked "what it holds survives a restart"

before=$(pid)
echo 'upload-rate = "1MB/s"' >>/etc/p2p-cache/p2p-cache.toml
systemctl reload p2p-cache
p2p-cache config 2>/dev/null | grep 'upload-rate = "1MB/s"' >/dev/null
[ "$(pid)" = "$before" ]
journalctl --unit p2p-cache | grep 'the configuration was read again' >/dev/null
echo 'share = "everybody"' >>/etc/p2p-cache/p2p-cache.toml
refuses systemctl reload p2p-cache
answers
checked "a reload takes what is right, refuses what is wrong, and the process stays"

refuses systemctl restart p2p-cache
sleep 2
[ "$(property ActiveState) $(property ExecMainStatus)" = "failed 64" ]
sed -i '/everybody/d' /etc/p2p-cache/p2p-cache.toml
systemctl reset-failed p2p-cache.service p2p-cache.socket
systemctl restart p2p-cache.socket p2p-cache.service
answers
checked "with a wrong configuration it does not start again and again, and says why it stopped"

before=$(pid)
kill -KILL "$before"
answers
[ "$(pid)" != "$before" ]
checked "a client that asks while it is down is answered when it is up again"

mkdir -p /run/systemd/system/p2p-cache.service.d
printf '[Service]\nWatchdogSec=3\n' >/run/systemd/system/p2p-cache.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart p2p-cache
before=$(pid)
kill -STOP "$before"
replaced() { [ "$(property MainPID)" != "$before" ] && systemctl is-active --quiet p2p-cache.service; }
eventually replaced
answers
checked "one that hangs is replaced"

systemctl stop p2p-cache.service
answers
systemctl is-active --quiet p2p-cache.service
checked "the first client starts it"

systemctl stop p2p-cache.socket p2p-cache.service
[ "$(property Result)" = success ]
refuses answers
checked "it stops when told to, in order"

#!/usr/bin/env bash
# The NixOS module without nixpkgs: every Nix file parses, the module evaluates to what it should, systemd takes the units that
# come out, and the daemon takes the configuration file.
#   bash nixos-module/tests/run.sh [PATH-OF-P2P-CACHE]
# Needs Nix and systemd-analyze; without the daemon its part is skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=${1:-target/debug/p2p-cache}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Exposure below 2.0 on systemd's scale from 0 (none) to 10; it counts in tenths of a point here.
max_exposure=19

value() { nix-instantiate --eval --strict --json -E "let shim = import ./nixos-module/tests/shim.nix; in $1"; }
text() { value "$1" | python3 -c 'import json, sys; sys.stdout.write(json.load(sys.stdin))'; }

while read -r file; do
    nix-instantiate --parse "$file" >/dev/null
done < <(git ls-files --cached --others --exclude-standard '*.nix')

# One word for each check that holds; the first that does not ends it.
checks=$(nix-instantiate --eval --strict --json nixos-module/tests/eval.nix | python3 -c 'import json, sys; print(len(json.load(sys.stdin)))')
text '(import ./nixos-module/tests/vm.nix { inherit (shim) pkgs; }).testScript' |
    python3 -c 'import ast, sys; ast.parse(sys.stdin.read())'

# What the documentation tells people to write is sound.
python3 - README.md docs/quick-start.md >"$work/examples.nix" <<'PYTHON'
import re, sys

pages = [open(page, encoding="utf-8").read() for page in sys.argv[1:]]
blocks = [block.strip() for page in pages for block in re.findall(r"```nix\n(.*?)```", page, re.S)]
print("[\n" + "\n".join(f"({block})" for block in blocks) + "\n]")
PYTHON
unsound=$(value "builtins.filter (example: !(example ? outputs) && (shim.evaluate { user = example.services.p2p-cache; }).failed != [ ])
    (import $work/examples.nix)")
[ "$unsound" = "[]" ] || { echo "not sound in the documentation: $unsound" >&2; exit 1; }
[ "$(value "builtins.length (import $work/examples.nix)")" -ge 5 ] || { echo "the documentation lacks examples" >&2; exit 1; }

enabled='(shim.evaluate { user.enable = true; })'
text "shim.serviceText $enabled.systemd.services.p2p-cache" >"$work/p2p-cache.service"
text "shim.socketText $enabled.systemd.sockets.p2p-cache" >"$work/p2p-cache.socket"
if command -v systemd-analyze >/dev/null; then
    for unit in "$work/p2p-cache.service" node/dist/p2p-cache.service; do
        systemd-analyze security --offline=true --threshold=$max_exposure "$unit" >"$work/report" ||
            { cat "$work/report" >&2; echo "$unit is not as hardened as it was" >&2; exit 1; }
        tail -1 "$work/report"
    done
    # The package is not in the store here: a program that is there stands for it.
    sed -i 's|^ExecStart=.*|ExecStart=/bin/true|; s|^ExecReload=.*|ExecReload=/bin/true|' "$work/p2p-cache.service"
    complaints=$(systemd-analyze verify --man=no "$work/p2p-cache.service" "$work/p2p-cache.socket" 2>&1) && [ -z "$complaints" ] ||
        { echo "$complaints" >&2; exit 1; }
else
    echo "skipped: what systemd says of the units (no systemd-analyze)"
fi

if [ -x "$binary" ]; then
    # JSON texts, lists and truth values are TOML, too.
    to_toml='import json, sys; [print(key, "=", json.dumps(value)) for key, value in json.load(sys.stdin).items()]'
    value "$enabled.settings" | python3 -c "$to_toml" >"$work/default.toml"
    value '(import ./nixos-module/tests/full.nix).settings' | python3 -c "$to_toml" >"$work/full.toml"
    for file in default full; do
        "$binary" config --check --config "$work/$file.toml" >/dev/null
    done
else
    echo "skipped: what the daemon says of the settings (no $binary)"
fi
echo "nixos-module: $checks checks passed"

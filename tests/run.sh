#!/usr/bin/env bash
# Runs every test: the documentation's examples, then unit, property and end-to-end tests with nextest.
# Installs what they need when it is missing: cargo-nextest, and from the distribution a Nix client and iproute2 (network
# namespaces; tests that need root say so when they skip themselves).
#   bash tests/run.sh [nextest arguments]      for example: bash tests/run.sh -E 'package(p2p-cache-tests)'
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v nix >/dev/null || missing+=(nix-bin)
command -v ip >/dev/null || missing+=(iproute2)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "tests/run.sh: install Nix (https://nixos.org/download) and iproute2 first" >&2; exit 1; }
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo-nextest >/dev/null || cargo install cargo-nextest --locked --quiet

[ $# -gt 0 ] || cargo test --locked --workspace --doc --quiet
# Builds the daemon too, which the end-to-end tests start: one build of the workspace, one set of features.
cargo nextest run --locked --workspace "$@"

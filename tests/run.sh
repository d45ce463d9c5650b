#!/usr/bin/env bash
# Runs every test: unit, property and end-to-end tests with nextest, then the documentation's examples.
# Installs what they need: cargo-nextest, and a Nix client from the distribution when `nix` is missing.
#   bash tests/run.sh [nextest arguments]      for example: bash tests/run.sh -E 'package(p2p-cache-tests)'
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v nix >/dev/null; then
    command -v apt-get >/dev/null || { echo "tests/run.sh: install Nix first: https://nixos.org/download" >&2; exit 1; }
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends nix-bin >/dev/null
fi
command -v cargo-nextest >/dev/null || cargo install cargo-nextest --locked --quiet

# Builds the daemon too, which the end-to-end tests start: one build of the workspace, one set of features.
cargo nextest run --locked --workspace "$@"
[ $# -gt 0 ] || cargo test --locked --workspace --doc --quiet

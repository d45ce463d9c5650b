#!/usr/bin/env bash
# Builds the Debian package of a p2p-cache that has been compiled, and prints the path of the package.
#   bash node/dist/deb.sh target/release/p2p-cache [further arguments of `cargo deb`]
# Installs cargo-deb when it is missing.
set -euo pipefail
binary=$(realpath "${1:?the path of a compiled p2p-cache}")
shift
cd "$(dirname "$0")/../.."
profile=$(basename "$(dirname "$binary")")
[ "$profile" != debug ] || profile=dev

command -v cargo-deb >/dev/null || cargo install cargo-deb --version 3.8.0 --locked --quiet --debug
rm -rf target/dist
"$binary" generate man target/dist/man >/dev/null
"$binary" generate completions target/dist/completions >/dev/null
cargo deb --package p2p-cache --no-build --quiet --profile "$profile" "$@"

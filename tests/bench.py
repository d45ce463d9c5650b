#!/usr/bin/env python3
"""Benches of the whole: release daemons beside what else does the job, in one run, so that the ratios mean something on
any machine. Nothing is installed; what is missing is named. Rivals from crates.io are built in tests/rivals when a bench
first needs them.

    cargo build --release && python3 tests/bench.py gateway
    python3 tests/bench.py site --hosts 8 --json site.json
    sudo python3 tests/bench.py all

Everything stays on loopback and in network namespaces of its own (site and swarm, which need root). Directories are made
below TMPDIR. docs/performance.md has the targets and the figures.
"""
import argparse
import json
import os
import pathlib
import platform
import signal
import sys
import tempfile

from benches import closure, common, gateway, live, site, transfer

# Each with its function, the tools that it needs and its settings: name, default, meaning.
RUNS = ("runs", 5, "measurements, of which the median counts")
BENCHES = {
    "one-peer": (transfer.one_peer, [], [("mib", 1024, "length of the blob"), RUNS]),
    "sources": (transfer.sources, [], [
        ("sources", 4, "holders"), ("mbit", 200, "upload rate of each, Mbit/s"), ("mib", 512, "length of the blob"),
        ("runs", 3, RUNS[2])]),
    "site": (site.site, ["nginx", "curl", "ip", "tc", "openssl"], [
        ("hosts", 8, "cold hosts"), ("mbit", 100, "the origin's link, Mbit/s"), ("mib", 100, "bytes of the closure")]),
    "swarm": (site.swarm, ["nginx", "curl", "ip", "tc", "openssl", "aria2c"], [
        ("hosts", 16, "hosts"), ("mbit", 100, "the seeder's link, Mbit/s"), ("mib", 256, "length of the blob"),
        ("runs", 1, RUNS[2])]),
    "miss": (gateway.miss, ["nginx", "openssl"], [
        ("requests", 300, "paths"), ("kib", 20, "length of each NAR"), ("peers", 4, "connected peers without them")]),
    "gateway": (gateway.gateway, ["nginx", "wrk", "curl", "openssl"], [("mib", 181, "length of the NAR"), RUNS]),
    "live": (live.live, ["nginx", "wrk", "curl", "nix-store"], [
        ("mib", 181, "length of each NAR, about"), ("files", 15000, "files in the larger of two trees"), RUNS]),
    "memory": (transfer.memory, [], [("mib", 10240, "length of the blob"), ("peers", 8, "holders")]),
    "no-peers": (closure.no_peers, ["nginx", "nix"], [
        ("paths", 24, "store paths"), ("text-kib", 2604, "random bytes behind the text of each path"), RUNS]),
}
NEED_ROOT = {"site", "swarm"}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_flags = argparse.ArgumentParser(add_help=False)
    common_flags.add_argument("--binary", type=pathlib.Path, default=common.ROOT / "target/release/p2p-cache",
                              help="the daemon (default: target/release/p2p-cache of this checkout)")
    common_flags.add_argument("--json", type=pathlib.Path, help="write the rows here too")
    common_flags.add_argument("--no-iroh", action="store_true", help="leave out iroh-blobs, which takes long to build")
    common_flags.add_argument("--harmonia", type=pathlib.Path, metavar="PROGRAM",
                              help="harmonia-cache, another server of live stores, for the bench `live`")
    commands = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    for name, (function, _, settings) in BENCHES.items():
        command = commands.add_parser(name, parents=[common_flags], help=function.__doc__)
        for setting, default, meaning in settings:
            command.add_argument(f"--{setting}", type=int, default=default, help=f"{meaning} (default {default})")
    commands.add_parser("all", parents=[common_flags], help="every bench with its defaults")
    return parser.parse_args()


def with_defaults(arguments, name):
    values = {setting.replace("-", "_"): default for setting, default, _ in BENCHES[name][2]}
    return argparse.Namespace(**{**values, **vars(arguments)})


def main():
    arguments = parse()
    # Also then the daemons end and the namespaces go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = list(BENCHES) if arguments.bench == "all" else [arguments.bench]
    if not arguments.binary.exists():
        sys.exit(f"{arguments.binary} is missing: cargo build --release, or name one with --binary")
    arguments.binary = arguments.binary.resolve()
    if arguments.harmonia and not os.access(arguments.harmonia, os.X_OK):
        sys.exit(f"{arguments.harmonia} is no program: build harmonia-cache, or leave out --harmonia")
    common.require(*{tool for name in names for tool in BENCHES[name][1]}, root=bool(NEED_ROOT & set(names)))
    rows = []
    for name in names:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix=f"p2p-cache-{name}-") as directory:
            pathlib.Path(directory).chmod(0o755)
            rows += BENCHES[name][0](with_defaults(arguments, name), pathlib.Path(directory)).rows
    if arguments.json:
        machine = {"cores": len(os.sched_getaffinity(0)), "kernel": platform.release()}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Throughput of the gateway and of a one-peer fetch, beside nginx serving the same file in the same run.

    cargo build --release && python3 tests/bench.py [--mib 190] [--runs 5]

Needs nginx, wrk and curl. Everything stays on loopback. Prints one line a row: what, median, nginx's median, ratio.
"""
import argparse
import hashlib
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / "target/release/p2p-cache"

NGINX = """
worker_processes 2; daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{ listen 127.0.0.1:{port}; root {dir}/www; }} }}
"""
NGINX_PORT = 18380


class Daemon:
    def __init__(self, directory, name, *flags):
        command = [BINARY, "serve", "--state-dir", directory / name, "--http", "127.0.0.1:0", "--no-mdns", "--no-dht",
                   "--listen", "/ip4/127.0.0.1/tcp/0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.ready = dict(word.split("=", 1) for word in self.process.stdout.readline().split()[1:])
        self.http, self.peer = self.ready["http"], self.ready["peer"]

    def stop(self):
        self.process.terminate()
        self.process.wait(15)


def download(url):
    """Seconds of one download, thrown away."""
    started = time.perf_counter()
    subprocess.run(["curl", "-sSf", "-o", "/dev/null", url], check=True)
    return time.perf_counter() - started


def requests_per_second(url):
    output = subprocess.run(["wrk", "-t2", "-c8", "-d3s", url], check=True, capture_output=True, text=True).stdout
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])


def wait_for_peer(daemon):
    for _ in range(300):
        with urllib.request.urlopen(f"{daemon.http}/api/v1/status") as answer:
            if b'"peer_id"' in answer.read().split(b'"peers"')[1]:
                return
        time.sleep(0.05)
    sys.exit("the peer did not connect")


def make_cache(www, mib):
    """A binary cache of one random file as an uncompressed NAR; unsigned, as origins may be."""
    data = pathlib.Path("/dev/urandom").open("rb").read(mib << 20)
    text = lambda part: len(part).to_bytes(8, "little") + part + bytes(-len(part) % 8)
    nar = b"".join(map(text, [b"nix-archive-1", b"(", b"type", b"regular", b"contents", data, b")"]))
    digest = hashlib.sha256(nar).hexdigest()
    (www / "nar").mkdir(parents=True)
    (www / "nar/file.nar").write_bytes(nar)
    (www / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    store_hash = "0" * 32
    narinfo = (f"StorePath: /nix/store/{store_hash}-bench\nURL: nar/file.nar\nCompression: none\n"
               f"NarHash: sha256:{digest}\nNarSize: {len(nar)}\nReferences: \n")
    (www / f"{store_hash}.narinfo").write_text(narinfo)
    return store_hash, digest, len(nar)


def sha256_seconds(path):
    """Seconds that one core needs to hash the file: what a fetch cannot beat while the whole is checked by SHA-256."""
    started = time.perf_counter()
    hashlib.sha256(path.read_bytes())
    return time.perf_counter() - started


def row(what, ours, theirs, unit):
    print(f"| {what} | {ours:,.0f} {unit} | {theirs:,.0f} {unit} | {ours / theirs:.2f} |")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--mib", type=int, default=190)
    options.add_argument("--runs", type=int, default=5)
    arguments = options.parse_args()
    for tool in ("nginx", "wrk", "curl"):
        if not shutil.which(tool, path="/usr/sbin:/usr/bin:/bin:/usr/local/bin"):
            sys.exit(f"{tool} is missing: apt-get install nginx-light wrk curl")
    if not BINARY.exists():
        sys.exit(f"{BINARY} is missing: cargo build --release")
    with tempfile.TemporaryDirectory() as temporary:
        bench(pathlib.Path(temporary), arguments)


def bench(directory, arguments):
    store_hash, digest, size = make_cache(directory / "www", arguments.mib)
    directory.chmod(0o755)
    (directory / "nginx.conf").write_text(NGINX.format(dir=directory, port=NGINX_PORT))
    nginx = subprocess.Popen(["nginx", "-c", directory / "nginx.conf"], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    origin = f"http://127.0.0.1:{NGINX_PORT}"
    daemons = []
    try:
        holder = Daemon(directory, "holder", "--origin", origin)
        daemons.append(holder)
        with urllib.request.urlopen(f"{holder.http}/{store_hash}.narinfo") as answer:
            nar_url = re.search(r"URL: (\S+)", answer.read().decode())[1]
        cold = download(f"{holder.http}/{nar_url}")
        time.sleep(1)
        mb = size / 1e6
        pairs = [(download(f"{holder.http}/{nar_url}"), download(f"{origin}/nar/file.nar"))
                 for _ in range(arguments.runs)]
        theirs = statistics.median(pair[1] for pair in pairs)
        print(f"{size} bytes, medians of {arguments.runs}\n\n| what | p2p-cache | nginx | ratio |\n|---|---|---|---|")
        row("NAR hit", mb / statistics.median(pair[0] for pair in pairs), mb / theirs, "MB/s")
        row("cold NAR from the origin, uncompressed (one run)", mb / cold, mb / theirs, "MB/s")
        rates = [(requests_per_second(f"{holder.http}/{store_hash}.narinfo"),
                  requests_per_second(f"{origin}/{store_hash}.narinfo")) for _ in range(min(3, arguments.runs))]
        row("narinfo hit, 8 connections", statistics.median(rate[0] for rate in rates),
            statistics.median(rate[1] for rate in rates), "/s")
        # The blob is published by hand, so that a peer may have it.
        blob = directory / "blob"
        blob.write_bytes((directory / "www/nar/file.nar").read_bytes())
        subprocess.run([BINARY, "put", blob, "--http", holder.http.removeprefix("http://")], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times = []
        for run in range(arguments.runs):
            fetcher = Daemon(directory, f"fetcher{run}", "--peer", holder.peer)
            daemons.append(fetcher)
            wait_for_peer(fetcher)
            times.append(download(f"{fetcher.http}/blobs/sha256/{digest}"))
            fetcher.stop()
        fetched = mb / statistics.median(times)
        row("fetch from one peer, verified, stored and served", fetched, mb / theirs, "MB/s")
        limit = mb / statistics.median(sha256_seconds(blob) for _ in range(arguments.runs))
        print(f"\nSHA-256 on one core, the limit of a fetch that is checked by it: {limit:,.0f} MB/s; "
              f"fetch / limit {fetched / limit:.2f}")
    finally:
        for daemon in daemons:
            daemon.stop()
        nginx.terminate()


if __name__ == "__main__":
    main()

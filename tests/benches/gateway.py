"""What a client on this machine sees: hits beside nginx, and what a miss costs."""
import http.client
import re
import subprocess
import time

from .common import MIB, Daemon, Nginx, Report, median, quantile
from .corpus import Cache


def download(url):
    """Seconds of one download, thrown away."""
    started = time.perf_counter()
    subprocess.run(["curl", "-sSf", "-o", "/dev/null", url], check=True)
    return time.perf_counter() - started


def requests_per_second(url):
    output = subprocess.run(["wrk", "-t2", "-c8", "-d3s", url], check=True, stdout=subprocess.PIPE, text=True).stdout
    if "Non-2xx" in output:
        raise SystemExit(f"{url} was refused:\n{output}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])


def gateway(arguments, directory):
    """Hits of a NAR and of a narinfo over HTTP, beside nginx on the same files."""
    report = Report("gateway")
    cache = Cache(directory / "www", [arguments.mib * MIB])
    store_hash, nar_hash, name = cache.paths[0]
    size = (cache.directory / name).stat().st_size
    nginx = Nginx(cache.directory, directory / "nginx")
    node = None
    try:
        node = Daemon(arguments.binary, directory / "node", "--origin", nginx.url,
                      "--trusted-public-key", cache.public_key)
        download(f"{node.http}/{store_hash}.narinfo")
        ours = f"{node.http}/nar/{store_hash}-{nar_hash}.nar"
        cold = download(ours)
        node.wait_until_idle()
        pairs = [(download(ours), download(f"{nginx.url}/{name}")) for _ in range(arguments.runs)]
        own, theirs = (median(column) for column in zip(*pairs))
        rate = lambda seconds: size / 1e6 / seconds
        report.row(f"NAR hit, {arguments.mib} MiB / nginx", theirs / own, ">= 0.9",
                   ours_MBps=rate(own), nginx_MBps=rate(theirs), cold_MBps=rate(cold))
        rates = [(requests_per_second(f"{node.http}/{store_hash}.narinfo"),
                  requests_per_second(f"{nginx.url}/{store_hash}.narinfo")) for _ in range(min(3, arguments.runs))]
        own, theirs = (median(column) for column in zip(*rates))
        report.row("narinfo hits, 8 connections / nginx", own / theirs, ">= 0.7", ours_per_s=own, nginx_per_s=theirs)
    finally:
        if node:
            node.stop()
        nginx.stop()
    return report


class Client:
    """One kept connection."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(url.removeprefix("http://"))

    def get(self, path):
        """Status, and milliseconds until the first byte and the last."""
        started = time.perf_counter()
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        answer.read(1)
        first = time.perf_counter() - started
        answer.read()
        return answer.status, first * 1e3, (time.perf_counter() - started) * 1e3


def compare(report, what, direct, through, target_median=None, target_p99=None):
    """Rows of the added milliseconds: each request's, and the difference of the p99s, which noise enlarges less."""
    added = [ours - theirs for ours, theirs in zip(through, direct)]
    report.row(f"added latency of {what}, median", median(added), target_median, "ms",
               direct=median(direct), through=median(through))
    report.row(f"added latency of {what}, p99", quantile(through, 0.99) - quantile(direct, 0.99), target_p99, "ms",
               direct=quantile(direct, 0.99), through=quantile(through, 0.99), p99_of_differences=quantile(added, 0.99))


def miss(arguments, directory):
    """What no peer has, asked through a node with peers and from the origin directly, by turns."""
    report = Report("miss")
    cache = Cache(directory / "www", [arguments.kib * 1024] * arguments.requests)
    nginx = Nginx(cache.directory, directory / "nginx")
    nodes = []
    try:
        for index in range(arguments.peers):
            nodes.append(Daemon(arguments.binary, directory / f"peer{index}", "--origin", "none",
                                "--trusted-public-key", cache.public_key))
        peers = [word for peer in nodes for word in ("--peer", peer.peer)]
        node = Daemon(arguments.binary, directory / "node", "--origin", nginx.url,
                      "--trusted-public-key", cache.public_key, *peers)
        nodes.append(node)
        node.wait_for_peers(arguments.peers)
        direct, through = Client(nginx.url), Client(node.http)
        for client in (direct, through):
            client.get("/nix-cache-info")
        narinfos, nars, unknown = ([], []), ([], []), ([], [])
        for store_hash, nar_hash, name in cache.paths:
            for client, file, column in ((direct, f"/{name}", 0),
                                         (through, f"/nar/{store_hash}-{nar_hash}.nar", 1)):
                status, _, last = client.get(f"/{store_hash}.narinfo")
                assert status == 200, status
                narinfos[column].append(last)
                status, _, last = client.get(file)
                assert status == 200, status
                nars[column].append(last)
                # Random: no path has this hash.
                status, _, last = client.get(f"/{store_hash[::-1]}.narinfo")
                assert status == 404, status
                unknown[column].append(last)
        compare(report, "a narinfo miss", *narinfos, "<= 1", "<= 5")
        compare(report, f"a NAR miss, {arguments.kib} KiB to its last byte", *nars, "<= 1", "<= 5")
        compare(report, "a path that nobody has", *unknown)
    finally:
        for node in nodes:
            node.stop()
        nginx.stop()
    return report

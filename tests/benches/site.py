"""Many hosts at once, each in a network namespace of its own: a site behind a slow origin, and a swarm."""
import concurrent.futures
import filecmp
import hashlib
import shutil
import subprocess
import sys
import time

from .common import MIB, Daemon, Nginx, Report, cpu_seconds, inside, median
from .corpus import Cache
from .network import LISTEN, Lan, address

GIGABIT = 1_000_000_000
# As Nix would: so many NARs at a time.
PARALLEL = 2


def node_in(lan, host, arguments, directory, *flags):
    return Daemon(arguments.binary, directory / f"host{host}", *flags, namespace=lan.host(host), listen=LISTEN, mdns=True)


def fetch_closure(namespace, base, paths, directory, node=None):
    """Seconds in which a plain client gets all narinfos and then all NARs; `paths` are of store hash and NAR. With a
    node, its log says why when the client fails."""
    directory.mkdir()
    configuration = directory / "urls"
    started = time.perf_counter()
    for kind in ("narinfo", "nar"):
        names = [(store_hash, nar if kind == "nar" else f"{store_hash}.narinfo") for store_hash, nar in paths]
        configuration.write_text("".join(f'url = "{base}/{name}"\noutput = "{directory}/{store_hash}.{kind}"\n'
                                         for store_hash, name in names))
        curl = ["curl", "--no-progress-meter", "--fail-early", "-f", "--parallel", "--parallel-max", str(PARALLEL)]
        if subprocess.run([*inside(namespace), *curl, "-K", configuration]).returncode != 0:
            sys.exit(f"a client in {namespace} failed\n{node.log_tail() if node else ''}")
    return time.perf_counter() - started


def verify(cache, directory):
    """Compares what a client got with the cache, and removes it."""
    for store_hash, _, name in cache.paths:
        got = directory / f"{store_hash}.nar"
        same = hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256((cache.directory / name).read_bytes()).digest()
        if not same:
            sys.exit(f"wrong bytes: {got}")
        got.unlink()


def all_at_once(count, work):
    """Results of `work(host)` for hosts that begin together."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def through_node(cache):
    return [(store_hash, f"nar/{store_hash}-{nar_hash}.nar") for store_hash, nar_hash, _ in cache.paths]


def directly(cache):
    return [(store_hash, name) for store_hash, _, name in cache.paths]


def site(arguments, directory):
    """Cold hosts fetch one closure together; the origin is behind a slow link."""
    report, hosts = Report("site"), arguments.hosts
    # A few large paths and many small ones, as closures are.
    total = arguments.mib * MIB
    sizes = [total // 4] * 2 + [total // 20] * 6 + [total // 50] * 10
    cache = Cache(directory / "www", sizes)
    nodes, nginx = [], None
    with Lan([GIGABIT] * hosts + [arguments.mbit * 1_000_000]) as lan:
        try:
            nginx = Nginx(cache.directory, directory / "nginx", f"{address(hosts)}:8080", lan.host(hosts), log=True)
            ideal = fetch_closure(lan.host(0), nginx.url, directly(cache), directory / "direct")
            verify(cache, directory / "direct")
            before = nginx.sent_bytes()
            for host in range(hosts):
                nodes.append(node_in(lan, host, arguments, directory, "--origin", nginx.url,
                                     "--trusted-public-key", cache.public_key,
                                     "--extra-shared-keys", cache.public_key))
            for node in nodes:
                node.wait_for_peers(hosts - 1)
            paths = through_node(cache)
            times = all_at_once(hosts, lambda host: fetch_closure(lan.host(host), nodes[host].http, paths,
                                                                  directory / f"client{host}", nodes[host]))
            for host in range(hosts):
                verify(cache, directory / f"client{host}")
            for node in nodes:
                node.wait_until_idle()
            sent = nginx.sent_bytes() - before
        finally:
            for node in nodes:
                node.stop()
            if nginx:
                nginx.stop()
    report.row(f"{hosts} cold hosts: origin bytes / unique bytes", sent / cache.bytes, "<= 1.05",
               unique_MB=cache.bytes / 1e6)
    report.row(f"{hosts} cold hosts: slowest host / one copy from the origin", max(times) / ideal, "<= 1.25",
               one_copy_s=ideal, hosts_s=sorted(times))
    return report


def swarm(arguments, directory):
    """Hosts fetch one blob from a seeder behind a slow link, into their stores, and through BitTorrent into files."""
    report, hosts = Report("swarm"), arguments.hosts
    cache = Cache(directory / "www", [arguments.mib * MIB])
    file = cache.directory / cache.paths[0][2]
    ours, torrent, ours_cpu, torrent_cpu = [], [], [], []
    with Lan([GIGABIT] * hosts + [arguments.mbit * 1_000_000]) as lan:
        for run in range(arguments.runs):
            place = directory / f"run{run}"
            place.mkdir()
            for result, times, cpu in ((swarm_of_nodes(lan, hosts, cache, arguments, place), ours, ours_cpu),
                                       (swarm_of_aria2(lan, hosts, file, place), torrent, torrent_cpu)):
                times.append(result[0])
                cpu.append(result[1])
    one_copy = file.stat().st_size * 8 / (arguments.mbit * 1e6)
    slowest = lambda runs: median([max(times) for times in runs])
    report.row(f"{hosts} hosts, seeder at {arguments.mbit} Mbit/s, {arguments.mib} MiB: slowest host / BitTorrent",
               slowest(ours) / slowest(torrent), "<= 0.9", ours_s=slowest(ours), aria2_s=slowest(torrent),
               one_copy_s=one_copy, ours_fastest_s=min(map(min, ours)), aria2_fastest_s=min(map(min, torrent)),
               ours_cpu_s=median(ours_cpu), aria2_cpu_s=median(torrent_cpu))
    return report


def swarm_of_nodes(lan, seeder, cache, arguments, directory):
    """Seconds of each host, and CPU seconds of all. Clients wait for the last byte, which a node gives out when it has
    checked the whole: what counts is the NAR in its store, as the file of BitTorrent does."""
    trust = ("--trusted-public-key", cache.public_key, "--extra-shared-keys", cache.public_key)
    store_hash, nar_hash, name = cache.paths[0]
    nginx = Nginx(cache.directory, directory / "nginx", "127.0.0.1:8080", lan.host(seeder))
    nodes = []
    try:
        nodes.append(node_in(lan, seeder, arguments, directory, "--origin", nginx.url, *trust))
        for host in range(seeder):
            nodes.append(node_in(lan, host, arguments, directory, "--origin", "none", *trust))

        def fetch(host):
            node, started = nodes[host], time.perf_counter()
            # Whoever waits too long for a byte is sent away, and comes again.
            patient = ["curl", "-s", "-f", "-r", "-1", "--retry", "20", "--retry-all-errors", "--retry-delay", "1"]
            for path in (f"{store_hash}.narinfo", f"nar/{store_hash}-{nar_hash}.nar"):
                command = [*patient, "-o", "/dev/null", f"{node.http}/{path}"]
                if subprocess.run([*inside(node.namespace), *command]).returncode != 0:
                    sys.exit(f"a client failed\n{node.log_tail()}")
            return time.perf_counter() - started

        fetch(0)
        for node in nodes:
            node.wait_for_peers(seeder)
        nodes[0].wait_until_idle()
        before = sum(node.cpu_seconds() for node in nodes)
        times = all_at_once(seeder, lambda host: fetch(host + 1))
        cpu = sum(node.cpu_seconds() for node in nodes) - before
        for node in nodes:
            node.wait_until_idle()
            kept = [path for path in (node.state / "blobs").rglob("*") if path.is_file()]
            if not any(filecmp.cmp(path, cache.directory / name, shallow=False) for path in kept):
                sys.exit(f"not kept as it was: {node.state}")
        return times, cpu
    finally:
        for node in nodes:
            node.stop()
            shutil.rmtree(node.state)
        nginx.stop()


TORRENT_PORT = 6881
TRACKER_PORT = 6969
PIECE_BYTES = 1 * MIB


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    items = sorted((key.encode(), item) for key, item in value.items())
    return b"d" + b"".join(bencode(key) + bencode(item) for key, item in items) + b"e"


def torrent_of(file, tracker):
    data = file.read_bytes()
    pieces = b"".join(hashlib.sha1(data[at:at + PIECE_BYTES]).digest() for at in range(0, len(data), PIECE_BYTES))
    info = {"name": file.name, "length": len(data), "piece length": PIECE_BYTES, "pieces": pieces, "private": 0}
    return bencode({"announce": tracker, "info": info})


TRACKER = """
import http.server, sys
answer = bytes.fromhex(sys.argv[3])
class Tracker(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", str(len(answer))); self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Tracker).serve_forever()
"""


def swarm_of_aria2(lan, seeder, file, directory):
    """The same with aria2. Its tracker names all hosts from the beginning: nobody waits for an announcement."""
    compact = b"".join(bytes(map(int, address(host).split("."))) + TORRENT_PORT.to_bytes(2, "big")
                       for host in range(seeder + 1))
    answer = bencode({"interval": 10, "peers": compact})
    torrent = directory / "file.torrent"
    torrent.write_bytes(torrent_of(file, f"http://{address(seeder)}:{TRACKER_PORT}/announce"))
    hook = directory / "done.sh"
    hook.write_text('#!/bin/sh\ndate +%s.%N > "$(dirname "$3")/done"\n')
    hook.chmod(0o755)
    flags = ["--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=true",
             f"--listen-port={TORRENT_PORT}", "--seed-ratio=0", "--file-allocation=none", "--no-conf=true", "-q",
             "--disable-ipv6=true", "--bt-max-peers=0", "--bt-request-peer-speed-limit=1000M", "--bt-tracker-interval=10"]
    processes = [subprocess.Popen([*inside(lan.host(seeder)), sys.executable, "-c", TRACKER, address(seeder),
                                   str(TRACKER_PORT), answer.hex()])]

    def aria2(host, place, *more):
        command = [*inside(lan.host(host)), "aria2c", *flags, f"--dir={place}", *more, torrent]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

    try:
        aria2(seeder, file.parent, "--check-integrity=true")
        time.sleep(5)
        seeder_before = cpu_seconds(processes[1])
        started = time.time()
        places = [directory / f"aria{host}" for host in range(seeder)]
        for host, place in enumerate(places):
            place.mkdir()
            aria2(host, place, f"--on-bt-download-complete={hook}")
        deadline = started + 600
        while not all((place / "done").exists() and (place / "done").stat().st_size for place in places):
            if any(process.poll() is not None for process in processes):
                sys.exit("a process of the swarm ended early: see above")
            if time.time() > deadline:
                sys.exit("aria2 did not end within 600 s")
            time.sleep(0.1)
        times = [float((place / "done").read_text()) - started for place in places]
        cpu = sum(cpu_seconds(process) for process in processes[1:]) - seeder_before
        for place in places:
            if not filecmp.cmp(place / file.name, file, shallow=False):
                sys.exit(f"wrong bytes: {place}")
            (place / file.name).unlink()
        return times, cpu
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()

"""What all benches need: daemons, nginx, rows, missing tools."""
import http.client
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RIVALS = ROOT / "tests/rivals"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIB = 1 << 20
# An end that takes longer is a hang.
STOP_SECONDS = 15
# Between two looks at a transfer.
POLL_SECONDS = 0.005
median = statistics.median


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def require(*tools, root=False):
    """Ends with a list of what is missing; nothing is installed."""
    packages = {"nginx": "nginx-light", "aria2c": "aria2", "ip": "iproute2", "tc": "iproute2", "nix": "nix-bin"}
    missing = [tool for tool in tools if not shutil.which(tool, path=PATH + ":" + os.environ.get("PATH", ""))]
    if missing:
        names = sorted({packages.get(tool, tool) for tool in missing})
        sys.exit(f"missing: {', '.join(missing)}. On Debian: apt-get install {' '.join(names)}")
    if root and os.geteuid() != 0:
        sys.exit("network namespaces need root")


def rival(name):
    """A comparator's binary, built when it is not there yet. cargo fetches its crates."""
    binary = RIVALS / "target/release" / name
    if not binary.exists():
        print(f"building {name} (once)", file=sys.stderr)
        package = f"p2p-cache-{name}"
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", package], cwd=RIVALS, check=True)
    return binary


def inside(namespace):
    return ["ip", "netns", "exec", namespace] if namespace else []


def cpu_seconds(process):
    """What a process has used so far, in user space and kernel. (`ip netns exec` becomes what it starts.)"""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Daemon:
    """A node of its own; `flags` go to `serve`. Everything on loopback unless a namespace is given."""

    def __init__(self, binary, directory, *flags, namespace=None, listen=("/ip4/127.0.0.1/tcp/0",), mdns=False):
        self.state, self.namespace, self.binary = pathlib.Path(directory), namespace, binary
        self.state.mkdir(parents=True, exist_ok=True)
        command = [*inside(namespace), binary, "serve", "--state-dir", self.state, "--http", "127.0.0.1:0", "--no-dht",
                   *([] if mdns else ["--no-mdns"]), *(word for address in listen for word in ("--listen", address)),
                   *flags]
        self.log = open(self.state.with_suffix(".log"), "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            sys.exit(f"the daemon did not start, see {self.log.name}:\n{pathlib.Path(self.log.name).read_text()}")
        ready = dict(word.split("=", 1) for word in line.split()[1:])
        self.http, self.peer = ready["http"], ready["peer"]
        self.address = self.http.removeprefix("http://")
        self.connection = None

    def log_tail(self, lines=30):
        return "\n".join(pathlib.Path(self.log.name).read_text().splitlines()[-lines:])

    def status(self):
        if self.namespace:
            command = [*inside(self.namespace), self.binary, "status", "--json", "--http", self.address]
            return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address)
        try:
            self.connection.request("GET", "/api/v1/status")
            return json.loads(self.connection.getresponse().read())
        except (http.client.HTTPException, OSError):
            # It closes connections that were idle for long.
            self.connection.close()
            self.connection.request("GET", "/api/v1/status")
            return json.loads(self.connection.getresponse().read())

    def wait_for_peers(self, count, seconds=60):
        wait_until(lambda: len(self.status()["peers"]) >= count, f"{count} peers", seconds)

    def wait_until_idle(self, seconds=60):
        wait_until(lambda: not self.status()["transfers"], "the end of transfers", seconds)

    def put(self, file):
        """Publishes a file; gives its BLAKE3."""
        command = [*inside(self.namespace), self.binary, "put", "--json", file, "--http", self.address]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL).stdout)["blake3"]

    def memory_kib(self, field="VmHWM"):
        """Peak resident memory; VmRSS is the present one."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(field + ":")).split()[1])

    def cpu_seconds(self):
        return cpu_seconds(self.process)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def wait_until(done, what, seconds):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f"waited {seconds} s for {what}")
        time.sleep(0.05)


class Fetch:
    """Fetches a blob into a node's store, with a client that wants only its last byte: no copy of the body is made.

    `verified` is the time after which all bytes were there, checked against the hash tree and written; `committed` the
    one after which the whole was also checked by SHA-256, synced to disk and indexed."""

    def __init__(self, node, digest, size):
        self.node, self.path, self.ended = node, f"/blobs/blake3/{digest}", False
        reader = threading.Thread(target=self.read, daemon=True)
        started = time.perf_counter()
        reader.start()
        self.verified = None
        seen = False
        while True:
            status = node.status()
            now = time.perf_counter() - started
            transfer = next((t for t in status["transfers"] if digest in t["digest"]), None)
            seen = seen or transfer is not None
            if transfer and self.verified is None and transfer["present_bytes"] >= size:
                self.verified = now
            if status["store"]["blobs"] >= 1 and transfer is None:
                break
            if self.ended and not seen:
                sys.exit(f"the node got nothing, see {node.log.name}")
            time.sleep(POLL_SECONDS)
        self.committed = now
        self.verified = self.verified or now
        reader.join()

    def read(self):
        # The gateway cuts a body in which nothing moves for long; the transfer goes on.
        for _ in range(1000):
            connection = http.client.HTTPConnection(self.node.address)
            try:
                connection.request("GET", self.path, headers={"Range": "bytes=-1"})
                answer = connection.getresponse()
                if answer.status == 206 and len(answer.read()) == 1:
                    break
                if answer.status != 206:
                    break
            except (http.client.HTTPException, OSError):
                pass
            finally:
                connection.close()
        self.ended = True


class Nginx:
    """nginx over a directory, with a log of what it sent."""

    CONFIGURATION = """
worker_processes 2; daemon off; pid {work}/nginx.pid; error_log {work}/error.log; user root;
events {{ worker_connections 512; }}
http {{ log_format sent '$status $body_bytes_sent $uri'; access_log {log};
  sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  server {{ listen {address}; root {root}; }} }}
"""

    def __init__(self, root, work, address="127.0.0.1:18380", namespace=None, log=False):
        work.mkdir(parents=True, exist_ok=True)
        self.log = work / "access.log"
        text = self.CONFIGURATION.format(work=work, root=root, address=address,
                                         log=f"{self.log} sent" if log else "off")
        if os.geteuid() != 0:
            text = text.replace(" user root;", "")
        (work / "nginx.conf").write_text(text)
        self.url = f"http://{address}"
        self.process = subprocess.Popen([*inside(namespace), "nginx", "-c", work / "nginx.conf"],
                                        stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        if self.process.poll() is not None:
            sys.exit(f"nginx did not start: {(work / 'error.log').read_text()}")

    def sent_bytes(self):
        """Bytes of bodies so far; a request is logged at its end."""
        return sum(int(line.split()[1]) for line in self.log.read_text().splitlines())

    def stop(self):
        self.process.terminate()
        self.process.wait(STOP_SECONDS)


class Report:
    """Rows of figures: printed at once, kept for `--json`."""

    def __init__(self, bench):
        self.bench, self.rows = bench, []

    def row(self, what, value, target=None, unit="", **details):
        """`target` is a text such as `>= 0.85`."""
        met = None
        if target:
            relation, limit = target.split()[:2]
            met = value >= float(limit) if relation == ">=" else value <= float(limit)
        self.rows.append({"bench": self.bench, "what": what, "value": value, "unit": unit, "target": target,
                          "met": met, **details})
        verdict = "" if met is None else f" (target {target}: {'met' if met else 'MISSED'})"
        more = "".join(f"; {name} {show(value)}" for name, value in details.items())
        print(f"{what}: {show(value)}{unit and ' '}{unit}{verdict}{more}", flush=True)


def show(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    if isinstance(value, list):
        return "[" + ", ".join(map(show, value)) + "]"
    return str(value)

"""Hosts in network namespaces on one bridge, each link with a rate of its own in both directions. Needs root."""
import os
import pathlib
import subprocess

PREFIX = "p2pb-"
# As in tests/src/netns.rs.
BURST_SECONDS = 0.004
MIN_BURST_BYTES = 70_000
QUEUE_MS = 30
LISTEN = ("/ip4/0.0.0.0/tcp/5381", "/ip4/0.0.0.0/udp/5381/quic-v1")


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def address(host):
    return f"10.78.0.{host + 1}"


class Lan:
    """A host for each rate in bit/s; to be used in a `with` statement."""

    def __init__(self, rates):
        self.rates, self.names = rates, []
        self.tag = f"{PREFIX}{os.getpid()}"

    def host(self, index):
        return f"{self.tag}-{index}"

    def __enter__(self):
        sweep()
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        switch = f"{self.tag}-switch"
        for name in [switch] + [self.host(index) for index in range(len(self.rates))]:
            run("ip", "netns", "add", name)
            self.names.append(name)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for index, rate in enumerate(self.rates):
            host, port = self.host(index), f"port{index}"
            run("ip", "link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", port, "netns", switch)
            run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            run("ip", "-n", host, "addr", "add", f"{address(index)}/24", "dev", "eth0")
            run("ip", "-n", host, "link", "set", "lo", "up")
            run("ip", "-n", host, "link", "set", "eth0", "up")
            run("ip", "-n", host, "route", "add", "default", "dev", "eth0")
            burst = max(MIN_BURST_BYTES, int(rate / 8 * BURST_SECONDS))
            shape = ["root", "tbf", "rate", f"{rate}bit", "burst", str(burst), "latency", f"{QUEUE_MS}ms"]
            run("tc", "-n", host, "qdisc", "add", "dev", "eth0", *shape)
            run("tc", "-n", switch, "qdisc", "add", "dev", port, *shape)

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stdin=subprocess.DEVNULL)
        self.names = []


def sweep():
    """Removes the networks of benches that died without a chance to do so."""
    names = subprocess.run(["ip", "netns", "list"], check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in names.splitlines():
        name = line.split(" ")[0]
        process = name.removeprefix(PREFIX).split("-")[0] if name.startswith(PREFIX) else None
        if process and not pathlib.Path("/proc", process).exists():
            subprocess.run(["ip", "netns", "del", name], stdin=subprocess.DEVNULL)

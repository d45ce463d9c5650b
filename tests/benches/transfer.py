"""From node to node: one peer, several, and the memory of a large transfer."""
import json
import os
import shutil
import subprocess
import sys
import time

from .common import MIB, Daemon, Fetch, Report, median, rival

# The node key and the index belong to one node; the rest of a state directory may be shared.
OWN_FILES = ("node.key", "index", "partial", "lock")


def random_file(path, mib):
    """Random bytes, a MiB of which repeats with another number in each of its groups: quick to make, no two alike."""
    with open("/dev/urandom", "rb") as random, open(path, "wb") as file:
        block = bytearray(random.read(MIB))
        for number in range(mib):
            for group in range(0, MIB, 16 * 1024):
                block[group:group + 8] = (number << 32 | group).to_bytes(8, "little")
            file.write(block)
    return path


class TlsSender:
    def __init__(self, file):
        self.binary = rival("rival-tls")
        self.process = subprocess.Popen([self.binary, "send", file], stdout=subprocess.PIPE, text=True)
        _, self.address, self.certificate = self.process.stdout.readline().split()

    def receive(self, out, sync):
        command = [self.binary, "receive", self.address, self.certificate, out, *(["--sync"] if sync else [])]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        os.unlink(out)
        return result["seconds"]


class IrohSender:
    def __init__(self, file, directory):
        self.binary, self.directory, self.runs = rival("rival-iroh"), directory, 0
        command = [self.binary, "send", file, directory / "iroh-sender"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.ticket = self.process.stdout.readline().split()[1]

    def receive(self):
        self.runs += 1
        store = self.directory / f"iroh-receiver-{self.runs}"
        result = subprocess.run([self.binary, "receive", self.ticket, store], check=True, stdout=subprocess.PIPE)
        shutil.rmtree(store)
        return json.loads(result.stdout)["seconds"]


def one_peer(arguments, directory):
    """One blob from one node to another, from file to file, beside a bare TLS socket and iroh-blobs."""
    report, size = Report("one-peer"), arguments.mib * MIB
    file = random_file(directory / "blob", arguments.mib)
    senders, holder = [], Daemon(arguments.binary, directory / "holder")
    ours, synced, tls, tls_synced, iroh, cpu = [], [], [], [], [], []
    try:
        digest = holder.put(file)
        senders.append(TlsSender(file))
        if not arguments.no_iroh:
            senders.append(IrohSender(file, directory))
        # The first round warms the page cache and is not counted.
        for run in range(arguments.runs + 1):
            node = Daemon(arguments.binary, directory / f"node{run}", "--peer", holder.peer)
            node.wait_for_peers(1)
            before = holder.cpu_seconds()
            fetch = Fetch(node, digest, size)
            counted = run > 0
            if counted:
                ours.append(fetch.verified)
                synced.append(fetch.committed)
                cpu.append((node.cpu_seconds() + holder.cpu_seconds() - before) / (size / 2**30))
            node.stop()
            shutil.rmtree(node.state)
            for sync, times in ((False, tls), (True, tls_synced)):
                seconds = senders[0].receive(directory / "tls", sync)
                times.extend([seconds] * counted)
            if not arguments.no_iroh:
                iroh.extend([senders[1].receive()] * counted)
    finally:
        holder.stop()
        for sender in senders:
            sender.process.terminate()
            sender.process.wait()
    rate = lambda times: size / 1e6 / median(times)
    report.row("verified and written / bare TLS socket", median(tls) / median(ours), ">= 0.85",
               ours_MBps=rate(ours), tls_MBps=rate(tls), cpu_s_per_GiB=median(cpu))
    report.row("checked by SHA-256 too, synced and indexed / bare TLS socket, synced",
               median(tls_synced) / median(synced), ours_MBps=rate(synced), tls_MBps=rate(tls_synced))
    if iroh:
        report.row("verified and written / iroh-blobs", median(iroh) / median(ours), ">= 2.5",
                   ours_MBps=rate(ours), iroh_MBps=rate(iroh))
    return report


def sources(arguments, directory):
    """One blob from several holders, each with a capped upload rate."""
    report, size = Report("sources"), arguments.mib * MIB
    file = random_file(directory / "blob", arguments.mib)
    rate = arguments.mbit * 1e6 / 8
    holders = []
    try:
        for index in range(arguments.sources):
            flags = ("--upload-rate", f"{arguments.mbit}Mbit/s")
            holders.append(Daemon(arguments.binary, directory / f"holder{index}", *flags))
            digest = holders[-1].put(file)
        peers = [word for holder in holders for word in ("--peer", holder.peer)]
        times = []
        for run in range(arguments.runs):
            node = Daemon(arguments.binary, directory / f"node{run}", *peers)
            node.wait_for_peers(len(holders))
            # The limiters' burst of an idle second would flatter.
            times.append(Fetch(node, digest, size).verified)
            node.stop()
            shutil.rmtree(node.state)
    finally:
        for holder in holders:
            holder.stop()
    ratios = [size / seconds / (len(holders) * rate) for seconds in times]
    report.row(f"aggregate of {len(holders)} sources at {arguments.mbit} Mbit/s / their sum", median(ratios), ">= 0.95",
               runs=ratios)
    return report


def share_state(state, other):
    """A state directory with the same blobs under other names of the same files."""
    shutil.copytree(state, other, copy_function=os.link, ignore=shutil.ignore_patterns(*OWN_FILES))


def memory(arguments, directory):
    """Resident memory of a node that fetches a large blob from several peers at once."""
    report, size = Report("memory"), arguments.mib * MIB
    needed = 3 * size
    if shutil.disk_usage(directory).free < needed:
        sys.exit(f"{directory} needs {needed / 2**30:.0f} GiB free: choose another TMPDIR or a smaller --mib")
    nodes = []
    try:
        first = Daemon(arguments.binary, directory / "holder0")
        file = random_file(directory / "blob", arguments.mib)
        digest = first.put(file)
        file.unlink()
        first.stop()
        for index in range(1, arguments.peers):
            share_state(first.state, directory / f"holder{index}")
        for index in range(arguments.peers):
            nodes.append(Daemon(arguments.binary, directory / f"holder{index}"))
            assert nodes[-1].status()["store"]["blobs"] == 1, "the holder has the blob"
        peers = [word for holder in nodes for word in ("--peer", holder.peer)]
        node = Daemon(arguments.binary, directory / "node", *peers)
        nodes.append(node)
        node.wait_for_peers(arguments.peers)
        idle = node.memory_kib()
        started = time.perf_counter()
        # The client reads along: nobody fetches for one that has what it asked for.
        command = ["curl", "-sS", "-f", "-o", "/dev/null", f"{node.http}/blobs/blake3/{digest}"]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        serving = sum(holder.status()["totals"]["served_peer_bytes"] > size / 50 for holder in nodes[:-1])
        report.row(f"peak resident memory, {arguments.mib} MiB from {arguments.peers} peers",
                   node.memory_kib() / 1024, "<= 150", "MiB", idle_MiB=idle / 1024, peers_that_served=serving,
                   largest_holder_MiB=max(holder.memory_kib() for holder in nodes[:-1]) / 1024,
                   seconds=seconds, MBps=size / 1e6 / seconds)
    finally:
        for node in nodes:
            node.stop()
    return report

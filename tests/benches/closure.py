"""A Nix closure copied by the real client: what a node costs that has no peers to ask."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from .common import Daemon, Nginx, Report, median, rival

EXPRESSION = """
let
  mk = name: text: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
    args = [ "-c" text ];
  };
  # Mostly hexadecimal text, which compresses to less than a half, and some small random files.
  leaf = n: mk "leaf-${toString n}" ''
    mkdir $out
    head -c %(text_bytes)d /dev/urandom | od -An -tx1 > $out/hex
    for i in $(seq 200); do head -c 3000 /dev/urandom > $out/f$i; done
  '';
in mk "top" "echo ${toString (builtins.genList leaf %(leaves)d)} > $out"
"""
NIX = ["nix", "--extra-experimental-features", "nix-command", "--option", "substituters", ""]


def nix(home, *command, **options):
    environment = dict(os.environ, HOME=str(home), XDG_CACHE_HOME=f"{home}/cache")
    environment.pop("NIX_PATH", None)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment, **options).stdout.strip()


class Closure:
    """A closure built here, in binary caches of several compressions."""

    def __init__(self, directory, paths, text_bytes):
        self.home = directory
        nix(directory, "nix-store", "--generate-binary-cache-key", "bench-1", "secret", "public", cwd=directory)
        self.key = (directory / "public").read_text().strip()
        (directory / "closure.nix").write_text(EXPRESSION % {"text_bytes": text_bytes, "leaves": paths - 1})
        options = {"sandbox": "true", "extra-sandbox-paths": "/bin /lib /lib64 /usr", "build-users-group": "",
                   "substituters": ""}
        flags = [word for name, value in options.items() for word in ("--option", name, value)]
        self.top = nix(directory, "nix-build", "--no-out-link", "--store", f"local?root={directory}/root", *flags,
                       "closure.nix", cwd=directory)

    def cache(self, compression):
        cache = self.home / f"cache-{compression}"
        nix(self.home, *NIX, "copy", "--from", f"local?root={self.home}/root", "--to",
            f"file://{cache}?secret-key={self.home}/secret&compression={compression}", self.top)
        return cache

    def copy(self, url):
        """Seconds in which Nix copies it into a fresh store, with a client that remembers nothing."""
        home = pathlib.Path(tempfile.mkdtemp(dir=self.home))
        started = time.perf_counter()
        nix(home, *NIX, "copy", "--from", url, "--to", f"local?root={home}/root",
            "--option", "trusted-public-keys", self.key, self.top)
        seconds = time.perf_counter() - started
        shutil.rmtree(home)
        return seconds


def verification_seconds(cache, directory):
    """What one core needs for the SHA-256 and BLAKE3 of all NARs of an uncompressed cache, and their bytes."""
    together = directory / "nars"
    with open(together, "wb") as out:
        for nar in sorted((cache / "nar").iterdir()):
            out.write(nar.read_bytes())
    result = json.loads(subprocess.run([rival("rival-tls"), "hash", together], check=True,
                                       stdout=subprocess.PIPE).stdout)
    together.unlink()
    return result["sha256_seconds"] + result["blake3_seconds"], result["bytes"]


def no_peers(arguments, directory):
    """A closure from nginx directly and through a cold node without peers, by turns."""
    report = Report("no-peers")
    closure = Closure(directory, arguments.paths, arguments.text_kib * 1024)
    plain = closure.cache("none")
    for compression in ("none", "xz"):
        cache = plain if compression == "none" else closure.cache(compression)
        nginx = Nginx(cache, directory / "nginx")
        direct, cold, warm, checks, cpu = [], [], [], [], []
        try:
            closure.copy(nginx.url)
            for run in range(arguments.runs):
                direct.append(closure.copy(nginx.url))
                node = Daemon(arguments.binary, directory / f"node-{compression}{run}", "--origin", nginx.url,
                              "--trusted-public-key", closure.key)
                try:
                    cold.append(closure.copy(node.http))
                    cpu.append(node.cpu_seconds())
                    node.wait_until_idle()
                    warm.append(closure.copy(node.http))
                finally:
                    node.stop()
                shutil.rmtree(node.state)
                seconds, size = verification_seconds(plain, directory)
                checks.append(seconds)
        finally:
            nginx.stop()
        # Pairs, because the machine's speed drifts.
        ratio = median(ours / theirs for ours, theirs in zip(cold, direct))
        cost = median(seconds / theirs for seconds, theirs in zip(checks, direct))
        report.row(f"no peers, {compression}: cold copy / direct", ratio, cold_s=median(cold), direct_s=median(direct),
                   runs=[ours / theirs for ours, theirs in zip(cold, direct)], MB=size / 1e6, node_cpu_s=median(cpu))
        report.row(f"no peers, {compression}: verification / direct", cost, verification_s=median(checks))
        report.row(f"no peers, {compression}: cold copy / direct, less verification", ratio - cost)
        report.row(f"no peers, {compression}: warm copy / direct", median(w / d for w, d in zip(warm, direct)))
    return report

"""A live Nix store as a binary cache, beside nginx on the NARs and narinfos as files, and beside harmonia."""
import subprocess
import sys
import time

from .closure import nix
from .common import MIB, STOP_SECONDS, Daemon, Nginx, Report, median
from .gateway import download, requests_per_second


def tree(directory, mib, files):
    """A directory with so many files of random bytes, hundred to a directory."""
    length = mib * MIB // files
    with open("/dev/urandom", "rb") as random:
        for index in range(files):
            place = directory / str(index // 100)
            place.mkdir(parents=True, exist_ok=True)
            (place / str(index)).write_bytes(random.read(length))
    return directory


class Store:
    """A store of a real Nix with one path for each number of files, and the same as files for a web server."""

    def __init__(self, directory, mib, numbers):
        self.root, self.www, self.paths = directory / "root", directory / "www", {}
        self.www.mkdir()
        for files in numbers:
            source = tree(directory / f"tree-{files}", mib, files)
            path = nix(directory, "nix-store", "--store", self.root, "--add", source)
            with open(self.www / f"{files}.nar", "wb") as nar:
                subprocess.run(["nix-store", "--dump", source], check=True, stdout=nar)
            self.paths[files] = path.removeprefix("/nix/store/")[:32]


class Harmonia:
    """harmonia over the same store; its connections are compressed only for clients that ask for it."""

    def __init__(self, program, root, work):
        work.mkdir()
        address = "127.0.0.1:18381"
        (work / "harmonia.toml").write_text(
            f'bind = "{address}"\nreal_nix_store = "{root}/nix/store"\nnix_db_path = "{root}/nix/var/nix/db/db.sqlite"\n')
        self.url = f"http://{address}"
        with open(work / "log", "wb") as log:
            self.process = subprocess.Popen([program], env={"CONFIG_FILE": work / "harmonia.toml"}, stderr=log, stdout=log)
        for _ in range(100):
            if subprocess.run(["curl", "-sf", "-o", "/dev/null", f"{self.url}/nix-cache-info"], check=False).returncode == 0:
                return
            time.sleep(0.1)
        self.stop()
        sys.exit(f"harmonia did not start: {(work / 'log').read_text()}")

    def stop(self):
        self.process.terminate()
        self.process.wait(STOP_SECONDS)


def narinfo(server, store_hash):
    """The text of a narinfo, and the whole URL of its NAR."""
    text = subprocess.run(["curl", "-sSf", f"{server}/{store_hash}.narinfo"], check=True, stdout=subprocess.PIPE,
                          text=True).stdout
    return text, f"{server}/{dict(line.split(': ', 1) for line in text.splitlines())['URL']}"


def beside(report, what, urls, mib, runs, target):
    """Whole NARs by turns; `urls` are ours and the other's."""
    pairs = [[download(url) for url in urls] for _ in range(runs + 1)][1:]
    own, theirs = (median(column) for column in zip(*pairs))
    report.row(what, theirs / own, target, ours_MBps=mib * MIB / 1e6 / own, theirs_MBps=mib * MIB / 1e6 / theirs)


def narinfos_beside(report, what, urls, runs, target):
    """Requests for one narinfo on 8 connections, by turns."""
    pairs = [[requests_per_second(url) for url in urls] for _ in range(min(3, runs))]
    own, theirs = (median(column) for column in zip(*pairs))
    report.row(what, own / theirs, target, ours_per_s=own, theirs_per_s=theirs)


def live(arguments, directory):
    """NARs and narinfos of a live Nix store, beside nginx on the same bytes as files, and beside harmonia."""
    report = Report("live")
    store = Store(directory, arguments.mib, (4, arguments.files))
    servers = [Nginx(store.www, directory / "nginx")]
    try:
        # Unsigned paths are for clients of this machine, which this is one of.
        node = Daemon(arguments.binary, directory / "node", "--origin", "none", "--nix-store", store.root)
        servers.append(node)
        harmonia = arguments.harmonia and Harmonia(arguments.harmonia, store.root, directory / "harmonia")
        servers += [harmonia] if harmonia else []
        for files, store_hash in store.paths.items():
            text, ours = narinfo(node.http, store_hash)
            (store.www / f"{store_hash}.narinfo").write_text(text)
            what = f"live NAR, {arguments.mib} MiB in {files} files"
            urls = ours, f"{servers[0].url}/{files}.nar"
            beside(report, f"{what} / nginx on the raw NAR", urls, arguments.mib, arguments.runs, ">= 0.8")
            if harmonia:
                urls = ours, narinfo(harmonia.url, store_hash)[1]
                beside(report, f"{what} / harmonia", urls, arguments.mib, arguments.runs, ">= 1.0")
        ours = f"{node.http}/{store_hash}.narinfo"
        what = "narinfos of the live store, 8 connections"
        urls = ours, f"{servers[0].url}/{store_hash}.narinfo"
        narinfos_beside(report, f"{what} / nginx", urls, arguments.runs, ">= 0.6")
        if harmonia:
            urls = ours, f"{harmonia.url}/{store_hash}.narinfo"
            narinfos_beside(report, f"{what} / harmonia", urls, arguments.runs, ">= 1.0")
    finally:
        for server in reversed(servers):
            server.stop()
    return report

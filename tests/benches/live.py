"""A live Nix store as a binary cache, beside nginx on the NARs and narinfos as files."""
import subprocess

from .closure import nix
from .common import MIB, Daemon, Nginx, Report, median
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


def live(arguments, directory):
    """NARs and narinfos of a live Nix store, beside nginx on the same bytes as files."""
    report = Report("live")
    store = Store(directory, arguments.mib, (4, arguments.files))
    nginx = Nginx(store.www, directory / "nginx")
    # Unsigned paths are for clients of this machine, which this is one of.
    node = Daemon(arguments.binary, directory / "node", "--origin", "none", "--nix-store", store.root)
    try:
        for files, store_hash in store.paths.items():
            text = subprocess.run(["curl", "-sSf", f"{node.http}/{store_hash}.narinfo"], check=True,
                                  stdout=subprocess.PIPE, text=True).stdout
            (store.www / f"{store_hash}.narinfo").write_text(text)
            url = dict(line.split(": ", 1) for line in text.splitlines())["URL"]
            pairs = [(download(f"{node.http}/{url}"), download(f"{nginx.url}/{files}.nar"))
                     for _ in range(arguments.runs + 1)][1:]
            own, theirs = (median(column) for column in zip(*pairs))
            size = (store.www / f"{files}.nar").stat().st_size
            report.row(f"live NAR, {arguments.mib} MiB in {files} files / nginx on the raw NAR", theirs / own, ">= 0.8",
                       ours_MBps=size / 1e6 / own, nginx_MBps=size / 1e6 / theirs)
        rates = [(requests_per_second(f"{node.http}/{store_hash}.narinfo"),
                  requests_per_second(f"{nginx.url}/{store_hash}.narinfo")) for _ in range(min(3, arguments.runs))]
        own, theirs = (median(column) for column in zip(*rates))
        report.row("narinfos of the live store, 8 connections / nginx", own / theirs, ">= 0.6",
                   ours_per_s=own, nginx_per_s=theirs)
    finally:
        node.stop()
        nginx.stop()
    return report

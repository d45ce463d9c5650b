"""Binary caches of random NARs, signed with a key of their own. They need no Nix."""
import base64
import hashlib
import pathlib
import subprocess

KEY_NAME = "bench-1"
ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"


def nix32(digest):
    """Nix's base 32: 5 bits a character, the last bits first."""
    number = int.from_bytes(digest, "little")
    length = (len(digest) * 8 + 4) // 5
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(length)))


def nar_of(data):
    """The NAR of a regular file."""
    text = lambda part: len(part).to_bytes(8, "little") + part + bytes(-len(part) % 8)
    return b"".join(map(text, [b"nix-archive-1", b"(", b"type", b"regular", b"contents", data, b")"]))


class Cache:
    """A cache directory with a NAR of each of these sizes in bytes; `paths` has (store hash, NarHash, file name)."""

    def __init__(self, directory, sizes):
        self.directory = pathlib.Path(directory)
        (self.directory / "nar").mkdir(parents=True)
        self.key = self.directory.with_suffix(".pem")
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self.key], check=True)
        public = subprocess.run(["openssl", "pkey", "-in", self.key, "-pubout", "-outform", "DER"], check=True,
                                stdout=subprocess.PIPE).stdout[-32:]
        self.public_key = f"{KEY_NAME}:{base64.b64encode(public).decode()}"
        (self.directory / "nix-cache-info").write_text("StoreDir: /nix/store\n")
        self.paths = [self.add(size) for size in sizes]
        self.bytes = sum(file.stat().st_size for file in self.directory.rglob("*")
                         if file.is_file() and file.name != "nix-cache-info")

    def add(self, size):
        with open("/dev/urandom", "rb") as random:
            nar = nar_of(random.read(size))
        digest = hashlib.sha256(nar).digest()
        nar_hash = nix32(digest)
        store_hash = nar_hash[:32]
        name = f"nar/{nar_hash}.nar"
        (self.directory / name).write_bytes(nar)
        path = f"/nix/store/{store_hash}-bench"
        signature = self.sign(f"1;{path};sha256:{nar_hash};{len(nar)};")
        (self.directory / f"{store_hash}.narinfo").write_text(
            f"StorePath: {path}\nURL: {name}\nCompression: none\nFileHash: sha256:{nar_hash}\nFileSize: {len(nar)}\n"
            f"NarHash: sha256:{nar_hash}\nNarSize: {len(nar)}\nReferences: \nSig: {signature}\n")
        return store_hash, nar_hash, name

    def sign(self, fingerprint):
        message = self.directory.with_suffix(".message")
        message.write_text(fingerprint)
        signature = subprocess.run(["openssl", "pkeyutl", "-sign", "-inkey", self.key, "-rawin", "-in", message],
                                   check=True, stdout=subprocess.PIPE).stdout
        return f"{KEY_NAME}:{base64.b64encode(signature).decode()}"

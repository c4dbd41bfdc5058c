"""Looks into a fileserver's data directory, and damages what lies there (docs/format.md).

stored.py STORE flip DIGEST     flips a bit of the last byte of a blob
stored.py STORE flip-frames     flips a bit in the middle of every frame of every trace; tells how many
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HEADER = 28
"""Bytes before a blob's encoded ones."""


class Place:
    """Where a blob's encoded bytes are."""

    def __init__(self, path: Path, position: int, length: int) -> None:
        self.path, self.position, self.length = path, position, length

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.position)
            return file.read(self.length)

    def flip(self, at: int) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.position + at)
            byte = file.read(1)[0]
            file.seek(self.position + at)
            file.write(bytes([byte ^ 0x10]))


class Store:
    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.packed: dict[str, list[Place]] = {}
        for pack in (self.path / "packs").iterdir():
            data = pack.read_bytes()
            count, version, magic = struct.unpack("<II8s", data[-16:])
            assert (version, magic) == (1, b"SWAYPAK\0"), pack
            for digest, position, length in struct.iter_unpack("<20sQI", data[-16 - 32 * count : -16]):
                place = Place(pack, position + HEADER, length - HEADER)
                self.packed.setdefault(digest.hex(), []).append(place)

    def places(self, digest: str) -> list[Place]:
        """All copies of a blob."""
        path = self.path / "blobs" / digest[:2] / digest[2:]
        alone = [Place(path, HEADER, path.stat().st_size - HEADER)] if path.exists() else []
        places = alone + self.packed.get(digest, [])
        if not places:
            sys.exit(f"the store has no blob {digest}")
        return places

    def blob(self, digest: str) -> bytes:
        data = self.places(digest)[0].read()
        if data[:1] == b"\0":
            return data[1:]
        unpack = ["zstd", "-dcq"]
        return subprocess.run(unpack, input=data[1:], stdout=subprocess.PIPE, check=True).stdout

    def trace_frames(self) -> Iterator[str]:
        """What the bundles of traces name behind page roots and trace."""
        for path in (self.path / "refs").iterdir():
            ref = json.loads(path.read_bytes())
            if not ref["name"].startswith("traces/"):
                continue
            bundle = self.blob(ref["digest"])
            assert bundle[:8] == b"SWAYBDL\0", ref
            (count,) = struct.unpack("<I", bundle[12:16])
            for member in range(2, count):
                yield bundle[16 + 20 * member : 36 + 20 * member].hex()


def main(store: Store, command: str, *digests: str) -> None:
    if command == "flip":
        for digest in digests:
            for place in store.places(digest):
                place.flip(place.length - 1)
    elif command == "flip-frames":
        frames = set(store.trace_frames())
        for digest in frames:
            for place in store.places(digest):
                place.flip(place.length // 2)
        print(len(frames))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(Store(sys.argv[1]), *sys.argv[2:])

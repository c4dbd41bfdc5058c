"""Writes small images in the OCI layout, sound and unsound ones.

    make_image.py DIR [--files N] [--size BYTES] [--seed TEXT] [--entry NAME]...

The image has one plain layer: /seed with the text, N files of BYTES that no compression makes
smaller, and a file for each --entry, under exactly that name. It is tagged `latest`.
"""

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path


def layer(arguments):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name, content):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mtime = 1_700_000_000
            archive.addfile(entry, io.BytesIO(content))

        add("seed", arguments.seed.encode())
        for number in range(arguments.files):
            name = f"{arguments.seed} {number}"
            add(f"file-{number}", hashlib.shake_128(name.encode()).digest(arguments.size))
        for name in arguments.entry:
            add(name, b"from outside")
    return buffer.getvalue()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=Path)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--seed", default="seed")
    parser.add_argument("--entry", action="append", default=[])
    arguments = parser.parse_args()

    blobs = arguments.dir / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def store(content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    tar = store(layer(arguments), "application/vnd.oci.image.layer.v1.tar")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [tar["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": store(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [tar],
    }
    descriptor = store(json.dumps(manifest).encode(), manifest["mediaType"])
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    (arguments.dir / "index.json").write_text(json.dumps(index))
    (arguments.dir / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


main()

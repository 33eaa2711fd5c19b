"""OCI layouts on the disk, written by hand."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm import architectures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_TYPE = "application/vnd.oci.image"
_TAG = "org.opencontainers.image.ref.name"


def layer(entries: Mapping[str, Any]) -> bytes:
    """Return a layer with these entries, by path: a file's content, or an entry of any kind."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return layer.getvalue()


def entry(kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return an entry without content, of a type of `tarfile`."""
    made = tarfile.TarInfo()
    made.type, made.linkname = kind, target
    return made


def layout(root: Path, *layers: bytes, tag: str = "latest", compression: str = "gzip") -> Path:
    """Write a layout with an image of these layers, or add the image to a layout."""
    described = _image(root, layers, architectures.own(), compression)
    return _with_index(root, {**described, "annotations": {_TAG: tag}})


def layout_for(root: Path, layers: Mapping[str, bytes]) -> Path:
    """Write a layout with one image, of one layer for each of these architectures."""
    manifests = [
        {**_image(root, [each], arch), "platform": {"architecture": arch, "os": "linux"}}
        for arch, each in layers.items()
    ]
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": manifests}
    return _with_index(root, _blob(root, "index.v1+json", json.dumps(index).encode()))


def _image(
    root: Path, layers: Sequence[bytes], arch: str, compression: str = "gzip"
) -> dict[str, Any]:
    config = {
        "architecture": arch,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(each) for each in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": _blob(root, "config.v1+json", json.dumps(config).encode()),
        "layers": [_layer(root, each, compression) for each in layers],
    }
    return _blob(root, "manifest.v1+json", json.dumps(manifest).encode())


def _with_index(root: Path, described: dict[str, Any]) -> Path:
    index = root / "index.json"
    manifests: Sequence[Any] = json.loads(index.read_text())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*manifests, described]}))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def _layer(root: Path, content: bytes, compression: str) -> dict[str, Any]:
    if not compression:
        return _blob(root, "layer.v1.tar", content)
    made = subprocess.run([compression], input=content, check=True, capture_output=True).stdout
    return _blob(root, f"layer.v1.tar+{compression}", made)


def _blob(root: Path, kind: str, content: bytes) -> dict[str, Any]:
    digest = _digest(content)
    file = root / "blobs" / digest.replace(":", "/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return {"mediaType": f"{_TYPE}.{kind}", "digest": digest, "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

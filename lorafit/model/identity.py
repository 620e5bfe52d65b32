"""Which base this is: the hashes that a run's record and its adapter carry."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

from lorafit.rundir.commit import hash_file

LARGE_BYTES = 2**30  # above this only the header of a weights file is hashed: names, shapes, offsets
TEXTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def identify(folder: Path) -> dict[str, object]:
    """Give sizes and SHA-256 of what makes the base what it is, and the commit where the hub's cache tells it."""
    paths = [*sorted(folder.glob("*.safetensors")), *(folder / name for name in TEXTS)]
    files = {path.name: _fingerprint(path) for path in paths if path.is_file()}
    commit = folder.name if folder.parent.name == "snapshots" else None
    return {"commit": commit, "files": files}


def base_hash(identity: Mapping[str, object]) -> str:
    """Give one hash of what `identify` found, wherever it was found."""
    files = json.dumps(identity["files"], sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()


def _fingerprint(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    if size <= LARGE_BYTES:
        return {"bytes": size, "sha256": hash_file(path).sha256}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return {"bytes": size, "header_sha256": hashlib.sha256(file.read(length)).hexdigest()}

"""Which base this is: the hashes that a run's record and its adapter carry."""

import hashlib
import json
import struct
from pathlib import Path

LARGE_BYTES = 2**30  # above this only the header of a weights file is hashed: names, shapes, offsets
TEXTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def identify(folder: Path) -> dict[str, object]:
    """Give sizes and SHA-256 of what makes the base what it is, and the commit where the hub's cache tells it."""
    paths = [*sorted(folder.glob("*.safetensors")), *(folder / name for name in TEXTS)]
    files = {path.name: _fingerprint(path) for path in paths if path.is_file()}
    commit = folder.name if folder.parent.name == "snapshots" else None
    return {"commit": commit, "files": files}


def base_hash(folder: Path) -> str:
    """Give one hash of the files that make the base what it is."""
    files = json.dumps(identify(folder)["files"], sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()


def _fingerprint(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    if size <= LARGE_BYTES:
        with path.open("rb") as file:
            return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return {"bytes": size, "header_sha256": hashlib.sha256(file.read(length)).hexdigest()}

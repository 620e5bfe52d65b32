"""Weights as safetensors shards: read one tensor at a time, written one shard at a time."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lorafit.errors import ModelError, first_line

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_LIMIT_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Weights:
    """The tensors of a model folder, by the names its files give them."""

    folder: Path
    files: dict[str, str]  # name of a tensor -> name of its file, file after file

    @classmethod
    def of(cls, folder: Path) -> "Weights":
        """List what is in a folder's safetensors. ModelError when they cannot be read."""
        if (folder / INDEX).is_file():
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            return cls(folder, dict(sorted(index["weight_map"].items(), key=lambda entry: entry[1])))
        with _opened(folder / SINGLE) as file:
            return cls(folder, dict.fromkeys(file.keys(), SINGLE))

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give each tensor with its name, on the host, in its stored dtype; a file is open only while it is read."""
        for name in dict.fromkeys(self.files.values()):
            with _opened(self.folder / name) as file:
                for key in (key for key, home in self.files.items() if home == name):
                    yield key, file.get_tensor(key)


def _opened(path: Path) -> "safe_open":
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot read the weights: {first_line(error)}",
            where=str(path),
            fix="get the file again: it is damaged, or cannot be read",
            code="E4-WEIGHTS",
        ) from None


def write_shards(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], limit_bytes: int = SHARD_LIMIT_BYTES
) -> list[str]:
    """Write tensors as they come, in files of at most `limit_bytes` (a larger tensor has one to itself).

    Gives the names of the files. One file is model.safetensors; several have an index beside them.
    """
    shards = [_write_shard(folder, number, shard) for number, shard in enumerate(_shards(tensors, limit_bytes), 1)]
    if len(shards) == 1:
        (folder / _part(1)).rename(folder / SINGLE)
        return [SINGLE]
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for number, name in enumerate(names, 1):
        (folder / _part(number)).rename(folder / name)
    _write_index(folder, dict(zip(names, shards, strict=True)))
    return names


def _shards(tensors: Iterable[tuple[str, torch.Tensor]], limit_bytes: int) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    held_bytes = 0
    for name, tensor in tensors:
        if shard and held_bytes + tensor.nbytes > limit_bytes:
            yield shard
            shard, held_bytes = {}, 0
        shard[name] = tensor
        held_bytes += tensor.nbytes
    yield shard


def _part(number: int) -> str:
    """Name a shard while it is unknown how many there will be."""
    return f"model-{number:05}.safetensors"


def _write_shard(folder: Path, number: int, shard: dict[str, torch.Tensor]) -> dict[str, int]:
    """Write a shard; give its tensors' names and bytes."""
    # transformers refuses a file that does not say "pt"; one key only, for several are written in random order
    save_file(shard, folder / _part(number), metadata={"format": "pt"})
    return {name: tensor.nbytes for name, tensor in shard.items()}


def _write_index(folder: Path, shards: dict[str, dict[str, int]]) -> None:
    total_bytes = sum(size for tensors in shards.values() for size in tensors.values())
    homes = {name: file for file, tensors in shards.items() for name in tensors}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(homes.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

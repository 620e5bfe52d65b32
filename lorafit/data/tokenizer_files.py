"""The files of a tokenizer, hashed as they were when it was loaded: those of now may be another's."""

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lorafit.data import files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_loaded: WeakKeyDictionary["PreTrainedTokenizerBase", list[str]] = WeakKeyDictionary()


def hashed(folder: Path) -> list[str]:
    """Name each file of a folder that a tokenizer may be made of, with its hash. OSError when one cannot be read.

    Weights are told from them by their names: a tokenizer is text, or a SentencePiece model.
    """
    return [f"{file.name} {files.sha256(file)}" for file in sorted(folder.iterdir()) if _of_tokenizer(file)]


def note(tokenizer: "PreTrainedTokenizerBase", found: list[str]) -> None:
    """Remember the files that a tokenizer was loaded from."""
    _loaded[tokenizer] = found


def noted(tokenizer: "PreTrainedTokenizerBase") -> list[str] | None:
    """Give the files that a tokenizer was loaded from; None where nobody knows, or none of them says it all."""
    found = _loaded.get(tokenizer)
    return found if found and any(name.startswith("tokenizer.json ") for name in found) else None


def _of_tokenizer(file: Path) -> bool:
    return file.is_file() and file.suffix in (".json", ".txt", ".jinja", ".model", ".tiktoken")

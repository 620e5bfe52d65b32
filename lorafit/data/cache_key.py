"""What the tokens of a source depend on, as one hash: an entry of the cache is found by it or not at all."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from lorafit.data import files, tokenizer_files
from lorafit.data.report import FileRecord, fingerprint
from lorafit.data.rows import local_files
from lorafit.data.today import now
from lorafit.recipe import formats
from lorafit.recipe.schema import DataSpec, Source, Validation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATA_VERSION = 1  # of the way from text to tokens; a change makes old prepared data another
DATED = "strftime_now"
NOT_OF_ONE_SOURCE = {"train", "validation", "packing", "chat_template"}  # the template counts by its text
_LIBRARIES = ("tokenizers", "transformers", "jinja2", "pyarrow", "numpy")
_HARMLESS = re.compile(DATED + r"""(?:\s+is\s+(?:not\s+)?defined|\(\s*(["'])([^"'\\]*)\1\s*\))""")


@dataclass(frozen=True)
class Key:
    """The name of what a source becomes, and the files that it was made from.

    The name is "" where the template writes a time of which nothing can be said beforehand.
    """

    name: str
    files: list[FileRecord]


class Keys:
    """Names the tokens that a source becomes with one tokenizer and one set of settings."""

    def __init__(self, data: DataSpec, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.data, self.tokenizer = data, tokenizer

    def of(self, source: Source | Validation) -> Key | None:
        """Give the key and the hashed files of a source; None for a hub data set, whose bytes are not ours to name,
        and for files that cannot be read.

        Raises DataError when the source is not there.
        """
        paths = local_files(source)
        if paths is None:
            return None
        try:
            records = [FileRecord(str(path), path.stat().st_size, files.sha256(path)) for path in paths]
        except OSError:
            return None
        use = "train" if isinstance(source, Source) else "validation"
        facts = {
            "source": source.model_dump(mode="json", exclude={"weight", "fraction"}),
            "use": use,
            "files": [[record.path, record.sha256] for record in records],
            **self._shared,
        }
        dates = written_dates(str(self.tokenizer.chat_template), now())
        return Key("" if dates is None else fingerprint({**facts, "dates": dates})[:40], records)

    @cached_property
    def _shared(self) -> dict[str, object]:
        return {
            "version": DATA_VERSION,
            "code": _code_hash(),
            "libraries": [_version(name) for name in _LIBRARIES],
            "settings": self.data.model_dump(mode="json", exclude=NOT_OF_ONE_SOURCE),
            "template": str(self.tokenizer.chat_template),
            "special_tokens": {key: str(value) for key, value in self.tokenizer.special_tokens_map.items()},
            "added_tokens": {key: repr(token) for key, token in self.tokenizer.added_tokens_decoder.items()},
            "tokenizer": self._tokenizer(),
        }

    def _tokenizer(self) -> list[str]:
        """Name the tokenizer by the bytes of its files (a tenth of the time), and by what may be changed later."""
        found = tokenizer_files.noted(self.tokenizer)
        if found is None:
            return [tokenizer_hash(self.tokenizer)]
        inner = self.tokenizer.backend_tokenizer
        parts = [repr(part) for part in (inner.normalizer, inner.pre_tokenizer, inner.post_processor, inner.decoder)]
        return [*parts, str(len(self.tokenizer)), *found]


def is_dated(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Say whether the tokenizer's template may write the date."""
    return DATED in str(tokenizer.chat_template)


def written_dates(template: str, now: datetime) -> list[str] | None:
    """Give what a template would write for a day: another day, other tokens.

    None where a format is made up as it goes, or writes more than the day.
    """
    found = list(_HARMLESS.finditer(template))
    if len(found) < template.count(DATED):
        return None
    formats = [match[2] for match in found if match[2] is not None]
    first, last = (
        now.replace(hour=hour, minute=part, second=part, microsecond=part) for hour, part in ((0, 0), (23, 59))
    )
    dates = [first.strftime(text) for text in formats]
    return dates if dates == [last.strftime(text) for text in formats] else None


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash all that the Rust tokenizer is."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def _code_hash() -> str:
    """Hash the code that makes tokens: rows of an earlier version of it must not come back."""
    folders = (Path(__file__).parent, Path(formats.__file__).parent)
    sources = sorted(file for folder in folders for file in folder.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()

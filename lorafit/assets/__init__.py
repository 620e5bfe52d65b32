"""The model and the data sets that ship with the package, so that the whole story runs offline."""

from importlib.resources import files
from pathlib import Path

from lorafit.errors import RecipeError

PREFIX = "builtin:"
NAMES = ("tiny", "sql", "questions")


def folder(path: str) -> Path | None:
    """Give the folder of `builtin:NAME`, or None for any other path; RecipeError for an unknown name."""
    if not path.startswith(PREFIX):
        return None
    name = path.removeprefix(PREFIX)
    if name not in NAMES:
        fix = "there are builtin:tiny (model), builtin:sql and builtin:questions (data)"
        raise RecipeError(f"no built-in is called {path!r}", fix=fix, code="E2-BUILTIN")
    return Path(str(files("lorafit.assets"))) / name


def existing(path: str) -> Path | None:
    """Give the folder or file that a path of a built-in or of this machine names; None where there is none.

    A name that no file system takes (too long, a null byte) names nothing.
    """
    there = folder(path) or Path(path).expanduser()
    try:
        return there if there.exists() else None
    except (OSError, ValueError):
        return None


def shown(path: str) -> str:
    """Write a path inside the package as `builtin:NAME/...`, the same on every machine, and any other as it is."""
    inside = path.removeprefix(f"{files('lorafit.assets')}/")
    return path if inside == path else PREFIX + inside

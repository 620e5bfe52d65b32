"""Write constraints.txt: the installed version of lorafit[dev] and of everything it pulls in.

Run it in an environment that `make check` passes in. Only what the requirements reach is pinned, so a package
that happens to be installed besides is left out; so are the libraries that only a CUDA build of torch brings,
which that build pins itself.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
CUDA_LIBRARY = re.compile(r"nvidia-|cuda-|triton$")
HEADER = """\
# Exact versions of everything that lorafit is developed and tested with, for CPU and CUDA machines alike:
#
#     pip install -c constraints.txt -e '.[dev]'      (or: make env)
#
# torch stands here without a local label (+cpu, +cu130): any build of that version will do. To choose one,
# install torch first from the index that carries it; this file then keeps it.
# Written by scripts/renew_constraints.py; the optional extras other than dev are not pinned.
"""


def declared(extra: str) -> Iterator[Requirement]:
    """Yield the requirements of pyproject.toml and of one of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from map(Requirement, project["dependencies"] + project["optional-dependencies"][extra])


def pulled_in(package: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """Yield what an installed package requires here, with these extras."""
    for requirement in map(Requirement, package.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def installed_closure(requirements: Iterator[Requirement]) -> dict[str, str]:
    """Map each package that the requirements reach to its version; LookupError for one not installed."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen or CUDA_LIBRARY.match(name):
            continue
        seen.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError as missing:
            raise LookupError(f"{requirement} is required and not installed: run make env first") from missing
        versions[name] = Version(package.version).public
        waiting += pulled_in(package, set(extras))
    return versions


def main() -> None:
    """Write the file and say how many packages it pins."""
    versions = installed_closure(declared("dev"))
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines))
    print(f"constraints.txt: {len(lines)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()

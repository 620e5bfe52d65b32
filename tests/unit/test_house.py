"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lorafit
from lorafit.errors import LorafitError

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "lorafit").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LONGEST_FILE_LINES = 300
LONGER_WITH_REASON: dict[str, str] = {}

# written so that this file does not contain what it looks for
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:w[o]rk|ro[o]t|h[o]me|Us[e]rs)/")
PACKAGE_HOST = re.compile(r"pyp[i]\.|py[t]hon[h]osted|download\.py[t]orch|ind[e]x-url|find-lin[k]s")
UNSAFE_CALL = re.compile(
    r"\b(?:import|from) pickle\b|\bpickle\.\w|\btorch\.load\b|(?<![\w.])(?:eval|exec)\(|\bshell=True\b"
    r"|\byaml\.(?:unsafe_|full_)?load\b|\bextractall\b|\btrust_remote_code=True\b"
)


def tracked_files() -> list[Path]:
    """Every text file that git tracks or would track, but the licence."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8000]]


def hits(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """Each line of the files that the pattern is found in."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]


def imported(path: Path) -> Iterator[str]:
    """The top-level name of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PACKAGE_HOST], ids=["machine path", "package host"])
def test_no_file_names_a_machine_or_a_package_host(pattern: re.Pattern[str]) -> None:
    assert hits(pattern, tracked_files()) == []


def test_the_package_runs_no_code_from_files() -> None:
    assert hits(UNSAFE_CALL, PACKAGE) == []


UNSAFE = [
    "import pickle",
    "torch.load(path)",
    "eval(text)",
    "x = exec(code)",
    "run(c, shell=True)",
    "yaml.load(f)",
]


@pytest.mark.parametrize("line", UNSAFE)
def test_the_gate_sees_what_it_is_for(line: str) -> None:
    assert UNSAFE_CALL.search(line)


@pytest.mark.parametrize("line", ["model.eval()", "lorafit eval RUN", "yaml.SafeLoader", "retrieval(x)"])
def test_the_gate_lets_pass_what_is_harmless(line: str) -> None:
    assert not UNSAFE_CALL.search(line)


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE_LINES}
    assert long.keys() == LONGER_WITH_REASON.keys()


def test_unit_tests_do_without_torch() -> None:
    heavy = {"torch", "transformers", "peft", "accelerate", "bitsandbytes"}
    for path in (ROOT / "tests/unit").rglob("*.py"):
        assert not heavy & set(imported(path)), path


def test_constraints_satisfy_what_the_project_declares() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    declared = map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
    assert [str(need) for need in declared if not need.specifier.contains(pinned[need.name.lower()])] == []
    assert not any("+" in pin or "@" in pin for pin in pinned.values())


def test_the_installed_version_is_the_one_of_the_source() -> None:
    assert installed_version("lorafit") == lorafit.__version__


def test_the_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", heading) for heading in headings[1:])


def test_every_room_is_a_package() -> None:
    """A folder without `__init__.py` is invisible to the import contracts."""
    assert [str(path) for path in PACKAGE if not (path.parent / "__init__.py").exists()] == []


FAULTS = {"Fault", *(kind.__name__ for kind in LorafitError.__subclasses__())}


def without_remedy(path: Path) -> list[str]:
    """Faults made in a file that name a code, and no way to mend them."""
    made = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    faults = [node for node in made if isinstance(node.func, ast.Name) and node.func.id in FAULTS]
    given = {node: {keyword.arg for keyword in node.keywords} for node in faults}
    return [
        f"{path.name}:{node.lineno}"
        for node, names in given.items()
        if "code" in names and "fix" not in names and len(node.args) < 3  # the third of a Fault is its fix
    ]


def test_every_fault_says_how_to_mend_it() -> None:
    assert [place for path in PACKAGE for place in without_remedy(path)] == []

"""Every command shown with its answer, in the README and on the page on claims, prints what stands there."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafit import cli

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs/guides/does-it-fit.md")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def answers() -> list[tuple[str, list[str]]]:
    """Give each command of the pages with the lines that stand under it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", "".join(page.read_text() for page in PAGES), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ lorafit "):
                found.append((line.removeprefix("$ lorafit "), []))
            else:
                found[-1][1].append(line.strip())
    return found


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def words(text: str) -> str:
    return NUMBER.sub("", text).strip()


def test_every_claim_has_its_commands() -> None:
    assert len(answers()) >= 7
    assert all(lines for _, lines in answers())


@pytest.mark.parametrize(("command", "lines"), answers(), ids=[command for command, _ in answers()])
def test_a_page_says_what_the_command_says(command: str, lines: list[str]) -> None:
    result = CliRunner().invoke(cli.app, shlex.split(command), prog_name="lorafit")
    assert result.exit_code == 0, result.output
    for line in lines:
        same = [each for each in result.output.splitlines() if words(line) in words(each)]
        expected = numbers(line)
        assert any(_are_near(expected, numbers(each)) for each in same), f"{line!r} is not in:\n{result.output}"


def _are_near(expected: list[float], found: list[float]) -> bool:
    """Every expected number is there, to the last digit."""
    return all(number in found for number in expected)

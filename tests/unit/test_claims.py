"""Every command shown with its answer, in the README and on the page on claims, prints what stands there."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafit import cli

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs/guides/does-it-fit.md")


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


def says(line: str, shown: str) -> bool:
    """Tell whether a line holds what is shown of it: the same words and figures in a row, however far apart."""
    wanted = r"\s+".join(map(re.escape, shown.split()))
    return re.search(rf"(?<![\w.,]){wanted}(?![\w]|[.,]\d)", line) is not None


def test_every_claim_has_its_commands() -> None:
    assert len(answers()) >= 7
    assert all(lines for _, lines in answers())


@pytest.mark.parametrize(("command", "lines"), answers(), ids=[command for command, _ in answers()])
def test_a_page_says_what_the_command_says(command: str, lines: list[str]) -> None:
    result = CliRunner().invoke(cli.app, shlex.split(command), prog_name="lorafit")
    assert result.exit_code == 0, result.output
    for line in lines:
        assert any(says(each, line) for each in result.output.splitlines()), f"{line!r} is not in:\n{result.output}"


@pytest.mark.parametrize(
    ("shown", "said"),
    [("12.70  PEAK", True), ("12.69  PEAK", False), ("2.70  PEAK", False), ("12.70 PEAK, of", True), ("PEA", False)],
)
def test_a_figure_is_that_of_its_own_words(shown: str, said: bool) -> None:
    """The end of a band beside a peak is not the peak."""
    assert says("   12.70  PEAK, of torch: loss  12.69 to 12.71", shown) == said

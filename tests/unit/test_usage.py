"""What a command line lacks or has too much of is said with what was found."""

import pytest
from _pytest.capture import CaptureFixture
from _pytest.monkeypatch import MonkeyPatch

from lorafit.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--rank 0", "'--rank': Input should be greater than or equal to 1, found '0';"),
        ("--rank=x", "parse string as an integer, found 'x';"),
        ("--rank 8 --rank -1", "greater than or equal to 1, found '-1';"),
        ("--rank", "'--rank' requires an argument;"),
        ("--gpus 5000", "less than or equal to 4096, found '5000';"),
        ("--price-per-hour \x1b[31m", r"found '\x1b[31m';"),
        ("--rank a", "an integer, found 'a';"),
        ("--rank 8=9", "an integer, found '8=9';"),
        ("--rank=", "an integer, found '';"),
        ("--rnk 4", "No such option: --rnk (Possible options: --rank);"),
        ("--engine lorafit@9", "--engine: lorafit answers for itself as it is"),
        ("--picture a.svg", "--picture draws what --exact traces"),
    ],
)
def test_it_says_what_it_found(words: str, said: str, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lorafit", "estimate-vram", "--model", "8b", *words.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["train --out recipe --gpus 2", "train --set recipe=x", "eval --metric target --json"]
)
def test_what_is_missing_was_not_found(words: str, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lorafit", *words.split()])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "Missing argument" in said
    assert "found" not in said


def test_a_picture_that_cannot_be_written_is_refused_before_the_trace(
    monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["lorafit", "estimate-vram", "--model", "8b", "--exact", "--picture", "/nowhere/a.svg"]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 7
    assert "/nowhere/a.svg: cannot write: no such folder" in capsys.readouterr().err

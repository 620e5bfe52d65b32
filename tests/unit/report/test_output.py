"""Standard output takes what there is to say, whatever its encoding."""

import io
import json

import pytest

from lorafit.report.output import emit, write_out

SAID = {"model": "日本", "where": "a\udcff"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_stays_the_same_object(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    emit(SAID)
    assert json.loads(raw.getvalue()) == SAID


def test_text_spells_out_what_an_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    write_out("é 日")
    assert raw.getvalue() == b"\xe9 \\u65e5\n"
    monkeypatch.setattr("sys.stdout", None)  # closed
    write_out("é")

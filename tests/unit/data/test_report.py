"""The account of the data, as a person reads it."""

from lorafit.data.report import SetReport


def test_one_row_is_no_rows() -> None:
    sizes = {"duplicates": 0, "tokens": 9, "target_tokens": 3, "fill": 0.5}
    assert SetReport(rows=1, packs=1, **sizes).as_text(256).startswith("1 row in 1 pack of up to")  # type: ignore[arg-type]
    assert SetReport(rows=0, packs=0, **sizes).as_text(256).startswith("0 rows in 0 packs of up to")  # type: ignore[arg-type]
    assert SetReport(rows=1200, packs=1, **sizes).as_text(256).startswith("1,200 rows in 1 pack of")  # type: ignore[arg-type]

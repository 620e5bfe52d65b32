"""A preview for a person: coloured where the terminal has colours, with brackets where it has none."""

import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from lorafit.data.faults import BadRow
from lorafit.report.histogram import bars
from lorafit.report.pieces import Piece, pieces, printable, visible
from lorafit.report.preview import PackView, Preview, RowView
from lorafit.report.units import percent

HEAD_TOKENS, TAIL_TOKENS = 400, 200  # of a long row
SHOWN_BAD = 10
SHOWN_NEIGHBOURS = 3
BAR_CELLS = 40
BORDER = "│"
TRAINED, NOT_TRAINED, SPECIAL, SPECIAL_TRAINED, QUIET = (
    "bold black on green",
    "dim",
    "magenta",
    "bold black on yellow",
    "dim",
)
_DIGITS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def show(preview: Preview, *, full: bool = False, stream: TextIO | None = None) -> None:
    """Print a preview. OSError when the stream is full or closed."""
    out = stream or sys.stdout
    console = Console(file=out, highlight=False, emoji=False, markup=False)
    for line in lines(preview, full=full, coloured=has_colours(console), width=console.width):
        with console.capture() as written:  # rich would leave by an exit code of its own when a reader has gone
            console.print(line, soft_wrap=True)
        out.write(_encodable(written.get(), out.encoding))
    out.flush()


def _encodable(text: str, encoding: str | None) -> str:
    name = encoding or "utf-8"
    return text.encode(name, "backslashreplace").decode(name)


def has_colours(console: Console) -> bool:
    """Say whether colours reach the eye: neither a pipe, nor NO_COLOR, nor a dumb terminal."""
    return console.color_system is not None and not console.no_color


def lines(preview: Preview, *, full: bool, coloured: bool, width: int) -> Iterator[Text]:
    """Give the rows, and after them the account of all."""
    if len(preview.chosen):
        yield _legend(coloured)
        yield Text()
    for row in preview.rows():
        yield from _row_lines(preview, row, full=full, coloured=coloured)
    yield from (Text(printable(line)) for line in _account(preview, width))


def _legend(coloured: bool) -> Text:
    if not coloured:
        return Text(f"⟦trained⟧  not trained  «special token»  a{BORDER}b: two tokens  · space  ↵ end of line")
    parts = [("trained", TRAINED), ("not trained", NOT_TRAINED), ("special", SPECIAL)]
    parts += [("special, trained", SPECIAL_TRAINED), (f"a{BORDER}b: two tokens  · space  ↵ end of line", QUIET)]
    return Text("  ").join(Text(words, style) for words, style in parts)


def _row_lines(preview: Preview, row: RowView, *, full: bool, coloured: bool) -> Iterator[Text]:
    yield Text(printable(_heading(row)), "bold" if coloured else "")
    file = row.source.rpartition(":")[0]
    yield from (Text(printable(f"  {_pack_line(pack, file)}"), QUIET if coloured else "") for pack in row.packs)
    text = Text()
    total = len(row.input_ids)
    cut = not full and total > HEAD_TOKENS + TAIL_TOKENS + 1
    for start, end in [(0, HEAD_TOKENS), (total - TAIL_TOKENS, total)] if cut else [(0, total)]:
        if start:
            text.append(_gap(row, HEAD_TOKENS, start), "bold" if coloured else "")
        shown = pieces(row.input_ids, row.trained, preview.special, preview.decode, start, end)
        text.append_text(_coloured(shown) if coloured else Text(_bracketed(shown)))
    yield text
    if not text.plain.endswith("\n"):
        yield Text()


def _heading(row: RowView) -> str:
    total, trained = len(row.input_ids), sum(row.trained)
    aim = f"class {row.label}" if row.label is not None else f"{trained:,} trained ({percent(trained, total)})"
    return f"{row.source}: {total:,} tokens, {aim}" + (", cut at max_length" if row.truncated else "")


def _pack_line(pack: PackView, file: str) -> str:
    """Name the neighbours of a row; those of its own file by their line."""
    if not pack.neighbours:
        return f"pack {pack.number:,}, alone"
    named = ", ".join(place.removeprefix(file) for place in pack.neighbours[:SHOWN_NEIGHBOURS])
    more = len(pack.neighbours) - SHOWN_NEIGHBOURS
    return f"pack {pack.number:,} ({pack.tokens:,} tokens), with {named}" + (f" and {more:,} more" if more > 0 else "")


def _gap(row: RowView, start: int, end: int) -> str:
    trained = sum(row.trained[start:end])
    return f"\n[… {end - start:,} tokens, {trained:,} of them trained: --full shows them …]\n"


def _written(piece: Piece) -> str:
    """Write a piece; a small number says of how many tokens it is."""
    return visible(piece.text) + (str(piece.tokens).translate(_DIGITS) if piece.tokens > 1 else "")


def _coloured(shown: Sequence[Piece]) -> Text:
    text = Text()
    for number, piece in enumerate(shown):
        style = (SPECIAL_TRAINED if piece.special else TRAINED) if piece.trained else SPECIAL
        style = style if piece.trained or piece.special else NOT_TRAINED
        inside = piece.trained and number > 0 and shown[number - 1].trained
        if number and not shown[number - 1].text.endswith("\n"):
            text.append(BORDER, "black on green" if inside else QUIET)
        text.append(_written(piece), style)
    return text


def _bracketed(shown: Sequence[Piece]) -> str:
    """Write pieces without colours: ⟦trained⟧, «special», borders between tokens."""
    text = ""
    for number, piece in enumerate(shown):
        before = shown[number - 1] if number else None
        text += "⟧" if before is not None and before.trained and not piece.trained else ""
        text += BORDER if before is not None and not before.text.endswith("\n") else ""
        text += "⟦" if piece.trained and (before is None or not before.trained) else ""
        text += f"«{_written(piece)}»" if piece.special else _written(piece)
    return text + ("⟧" if shown and shown[-1].trained else "")


def _account(preview: Preview, width: int) -> Iterator[str]:
    report = preview.report
    counts = report.counts
    yield (
        f"{counts.read:,} rows read: {counts.kept:,} kept ({counts.truncated:,} of them truncated), "
        f"{counts.dropped:,} dropped, {counts.bad:,} bad"
    )
    yield from preview.data.remarks
    yield from report.as_text().splitlines()
    yield from _mix_lines(preview)
    yield from _bad_lines([row for source in report.sources for row in source.bad_rows], counts.bad)
    yield "rows to train on, by tokens:"
    room = max(4, min(BAR_CELLS, width - 24))
    yield from (f"  {line}" for line in bars(preview.data.train.lengths.tolist(), report.max_length, room))


def _mix_lines(preview: Preview) -> Iterator[str]:
    shares = preview.mix()
    tokens = sum(share.tokens for share in shares)
    for share in shares if len(shares) > 1 else ():
        part = percent(share.tokens, tokens)
        yield f"of an epoch: {share.path}: {share.rows:,} rows, {share.tokens:,} tokens ({part} of all)"


def _bad_lines(bad: Sequence[BadRow], count: int) -> Iterator[str]:
    if not count:
        return
    yield "rows left out as bad:"
    for row in bad[:SHOWN_BAD]:
        yield f"  {row.where}: {row.reason}" + (f" ({row.found})" if row.found else "") + f"  [{row.code}]"
    if count > SHOWN_BAD:
        yield f"  and {count - min(SHOWN_BAD, len(bad)):,} more (all of them: --json)"

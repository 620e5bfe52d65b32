"""The results as Markdown: speeds beside peers, kernels, longest rows, and memory beside the estimate."""

from collections.abc import Iterable, Mapping
from typing import Any

from scripts.gpu.cells import Cell

GIB = 2**30
Results = Mapping[str, Mapping[str, Any]]


def table(cells: Iterable[Cell], done: Results) -> str:
    """Give the page; cells that are not measured yet are left out."""
    measured = [(cell, done[cell.name]) for cell in cells if cell.name in done]
    lines = ["# On a card", ""]
    for about in sorted({_about(facts) for _, facts in measured}):
        lines.append(about + "  ")
    for kind, (header, row) in SECTIONS.items():
        rows = [row(cell, facts) for cell, facts in measured if cell.kind == kind]
        if rows:
            lines += ["", _row(header), _row(["---"] * len(header)), *rows]
    errors = _errors(measured)
    return "\n".join([*lines, *(["", errors] if errors else [])]) + "\n"


def _about(facts: Mapping[str, Any]) -> str:
    names = ("torch", "transformers", "peft", "bitsandbytes", "trl")
    return ", ".join([str(facts["device"]), *(f"{name} {facts[name]}" for name in names if name in facts)])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _why_not(facts: Mapping[str, Any]) -> str | None:
    """Say why a cell has no number."""
    for key in ("left_out", "out_of_memory", "failed"):
        if key in facts:
            last = str(facts[key]).strip().splitlines()[-1:]
            return f"{key.replace('_', ' ')}: {last[0][:120] if last else ''}"
    return None


def _gib(facts: Mapping[str, Any], key: str) -> str:
    return f"{facts[key] / GIB:.2f} GiB" if facts.get(key) is not None else "-"


def _speed(cell: Cell, facts: Mapping[str, Any]) -> str:
    if why := _why_not(facts):
        return _row([cell.name, why, "", "", cell.target])
    share = f"{facts['share_of_products']:.0%}"
    return _row([cell.name, f"{facts['tokens_per_second']:,.0f}", share, _gib(facts, "peak_bytes"), cell.target])


def _kernel(cell: Cell, facts: Mapping[str, Any]) -> str:
    why = _why_not(facts) or f"{facts['times_the_products']:.2f} x"
    return _row([cell.name, why, _gib(facts, "memory_bytes"), cell.target])


def _length(cell: Cell, facts: Mapping[str, Any]) -> str:
    why = _why_not(facts)
    found = (why, "") if why else (f"{facts['longest_row']:,}", f"{facts['estimated_row']:,}")
    return _row([cell.name, *found, cell.target])


def _memory(cell: Cell, facts: Mapping[str, Any]) -> str:
    estimated = _gib(facts, "estimated_bytes")
    if why := _why_not(facts):
        return _row([cell.name, why, "", estimated, "", cell.target])
    apart = "-" if facts["peak_bytes"] is None else f"{facts['estimated_bytes'] / facts['peak_bytes'] - 1:+.1%}"
    peaks = [_gib(facts, "peak_bytes"), _gib(facts, "reserved_bytes")]
    return _row([cell.name, *peaks, estimated, apart, cell.target])


def _errors(measured: Iterable[tuple[Cell, Mapping[str, Any]]]) -> str:
    found = sorted(
        abs(facts["estimated_bytes"] / facts["peak_bytes"] - 1)
        for cell, facts in measured
        if cell.kind == "memory" and facts.get("peak_bytes")
    )
    if not found:
        return ""
    middle = found[len(found) // 2]
    return f"Memory against the estimate, {len(found)} cells: median {middle:.1%}, worst {found[-1]:.1%}."


SECTIONS: dict[str, Any] = {
    "speed": (("speed", "tokens/s", "of the card's products", "peak", "target"), _speed),
    "loss": (("loss alone", "of two products", "memory", "target"), _kernel),
    "linear": (("linear alone", "of the frozen products", "memory", "target"), _kernel),
    "row": (("longest row", "trains", "estimated", "target"), _length),
    "memory": (("memory", "allocated", "reserved", "estimated", "apart", "target"), _memory),
}

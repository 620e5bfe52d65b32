"""Print which chat templates are masked exactly, as a table in Markdown: `python scripts/template_table.py FOLDER`.

FOLDER holds Jinja files, in itself or one folder down. What is exact is proved by the tests; this only tells.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lorafit.data.chat import ChatRenderer
from lorafit.data.template_defaults import settle
from lorafit.errors import LorafitError
from lorafit.recipe.formats import Conversation, RowFault, parse

PLAIN = [{"role": "user", "content": "asked one"}, {"role": "assistant", "content": "said one"}]
MORE = [{"role": "user", "content": "asked two"}, {"role": "assistant", "content": "said two"}]
THOUGHT = {"role": "assistant", "content": "<think>\nmused\n</think>\n\nsaid two"}
FUNCTION = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
TOOLS: list[dict[str, Any]] = [
    PLAIN[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "abcdefghi"},
    PLAIN[1],
]
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [*PLAIN, *MORE]},
    "system": {"messages": [{"role": "system", "content": "be brief"}, *PLAIN, *MORE]},
    "tools": {"messages": TOOLS, "tools": [{"type": "function", "function": FUNCTION}]},
    "thinking": {"messages": [*PLAIN, MORE[0], THOUGHT]},
}


def outcome(renderer: ChatRenderer, fields: dict[str, Any]) -> tuple[str, str]:
    """Give "exact" with what is noted, or "refused" with the reason."""
    row = parse("chat", fields)
    assert isinstance(row, Conversation)
    try:
        rendered = renderer.render(row)
    except RowFault as fault:
        return "refused", re.sub("^the chat template (cannot be masked exactly: |refuses the row: )", "", fault.reason)
    except LorafitError as error:
        return "refused", error.faults[0].what
    return "exact", ", ".join(note for note in rendered.notes if note != "trimmed")


def main(folder: str) -> None:
    """Print the table and, below it, the counts."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tally: Counter[tuple[str, str]] = Counter()
    files = sorted([*Path(folder).glob("*.jinja"), *Path(folder).glob("*/*.jinja")])
    print(f"| template | {' | '.join(SHAPES)} | why, and what is noted |")
    print(f"|---|{'---|' * (len(SHAPES) + 1)}")
    for path in files:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        settle(tokenizer, {})
        renderer = ChatRenderer(tokenizer, "assistant")
        found = {shape: outcome(renderer, fields) for shape, fields in SHAPES.items()}
        tally.update((shape, what) for shape, (what, _) in found.items())
        cells = " | ".join(what for what, _ in found.values())
        print(f"| `{path.relative_to(folder).with_suffix('')}` | {cells} | {_short(found)} |")
    print(f"| **exact of {len(files)}** | {' | '.join(str(tally[shape, 'exact']) for shape in SHAPES)} | |")


def _short(found: dict[str, tuple[str, str]]) -> str:
    """Say each reason once, with the shapes it holds for unless it holds for all."""
    shapes: dict[str, list[str]] = {}
    for shape, (_, why) in found.items():
        if why:
            shapes.setdefault(why, []).append(shape)
    said = [why if len(of) == len(SHAPES) else f"{', '.join(of)}: {why}" for why, of in shapes.items()]
    return "; ".join(said).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    main(sys.argv[1])

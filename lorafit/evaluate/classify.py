"""The class of one text, as `lorafit generate` asks for it."""

import sys

import torch

from lorafit.errors import DataError, RecipeError
from lorafit.evaluate.target import Target

SHOWN = 3


def classify(found: Target, prompt: str | None, *, speak: bool) -> dict[str, object]:
    """Give the class of a text with the probability that the model puts on it, and those that come next.

    RecipeError without a text: a classifier holds no conversation.
    """
    if prompt is None:
        raise RecipeError(
            f"{found.name} tells classes apart and holds no conversation",
            fix='give it a text: lorafit generate RUN --prompt "..."',
            code="E2-USAGE",
        )
    ids = _ids(found, prompt)
    loaded = found.load()
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False).logits[0]
    shares = logits.float().softmax(dim=0)
    best = shares.argsort(descending=True)[:SHOWN].tolist()
    classes = [{"label": loaded.labels[number], "probability": float(shares[number])} for number in best]
    if speak:
        lines = [f"{one['probability']:.3f}  {one['label']}" for one in classes]
        sys.stdout.write("\n".join(lines) + "\n")
    return {"prompt": prompt, "answer": classes[0]["label"], "classes": classes}


def _ids(found: Target, prompt: str) -> list[int]:
    """Tokenise the text as the model's tokenizer is stored. DataError without a token, and beyond the context."""
    ids: list[int] = found.tokenizer(prompt, verbose=False)["input_ids"]
    if not ids:
        raise DataError("the tokenizer makes no token of the text", fix="give another one", code="E3-ROW-TOKENS")
    if found.context is not None and len(ids) > found.context:
        what = f"the text has {len(ids):,} tokens, the model takes {found.context:,}"
        raise DataError(what, fix="give a shorter one", code="E3-CONTEXT")
    return ids

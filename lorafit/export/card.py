"""The model card that travels with a merged model."""

from lorafit.recipe.adapters import Full
from lorafit.recipe.schema import Recipe

CARD = """---
library_name: transformers
base_model: {base}
tags: [lorafit]
---

# {title}

Trained with lorafit on {sources}, {how}.
Weights are {dtype}. The model was read back from disk and its logits compared with those of the trained run.

```python
from transformers import {kind}, AutoTokenizer

model = {kind}.from_pretrained(FOLDER, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(FOLDER)  # brings {brings} of the training
```

`FOLDER` is this folder. The licence is that of the base model.
"""


def merged_card(recipe: Recipe, dtype: str, *, classes: bool = False) -> str:
    """Write the card. It holds nothing of the time or the machine, so that equal merges give equal files."""
    base = recipe.model.path
    full = isinstance(recipe.adapter, Full)
    return CARD.format(
        base=base,
        title=f"`{base}`, fine-tuned" if full else f"`{base}` with its adapter merged in",
        sources=", ".join(f"`{source.path}`" for source in recipe.data.train),
        how="every weight trained" if full else _fold_in_words(recipe),
        dtype=dtype,
        kind="AutoModelForSequenceClassification" if classes else "AutoModelForCausalLM",
        brings="the special tokens" if classes else "the chat template",
    )


def _fold_in_words(recipe: Recipe) -> str:
    kind = recipe.quantization.kind
    base = "the base" if kind == "none" else f"the base as {kind} holds it, dequantised"
    return f"the {recipe.adapter.kind} adapter folded into {base} in float32 and cast once"

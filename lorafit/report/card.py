"""The model card that travels with an adapter: what it is, how it was made, how to use it."""

from lorafit.recipe.schema import Recipe
from lorafit.report.units import percent

LIBRARY_HEADER = "---\nlibrary_name: peft\nbase_model: {base}\ntags: [lorafit, lora]\n---\n"


def model_card(recipe: Recipe, trained: int, classes: int = 0) -> str:
    """Write the card of a fully fine-tuned model; likewise without time or machine."""
    sources = ", ".join(f"`{source.path}`" for source in recipe.data.train)
    base = recipe.model.path
    return (
        f"---\nlibrary_name: transformers\nbase_model: {base}\ntags: [lorafit]\n---\n\n# `{base}`, fine-tuned\n\n"
        f"Trained with lorafit: all {trained:,} parameters, in float32, on {sources}. It loads with\n"
        f"`{_kind(classes)}.from_pretrained(FOLDER)`; `lorafit merge RUN --out FOLDER --dtype bfloat16` halves it.\n"
    )


def _kind(classes: int) -> str:
    return "AutoModelForSequenceClassification" if classes else "AutoModelForCausalLM"


def adapter_card(recipe: Recipe, trainable: int, total: int, target_count: int, classes: int = 0) -> str:
    """Write the card. It holds nothing of the time or the machine, so that equal runs give equal files."""
    adapter = recipe.adapter
    sources = ", ".join(f"`{source.path}`" for source in recipe.data.train)
    base = recipe.model.path
    brings = "the special tokens" if classes else "the chat template"
    return (
        LIBRARY_HEADER.format(base=base)
        + f"""
# Adapter for `{base}`

Trained with lorafit: `{adapter.kind}` on {target_count} layers, {trainable:,} of {total:,} parameters
({percent(trainable, total)}), base held as `{recipe.quantization.kind}`, on {sources}.

```python
from peft import PeftModel
from transformers import {_imports(classes)}

model = PeftModel.from_pretrained({_base(classes)}, ADAPTER)
tokenizer = AutoTokenizer.from_pretrained(ADAPTER)  # brings {brings} of the training
```
{_head_in_words(classes)}
`BASE` is the folder or hub id of the base model, `ADAPTER` this folder. `lorafit merge RUN --out FOLDER` folds
the adapter into the base.
"""
    )


def _imports(classes: int) -> str:
    return f"AutoConfig, {_kind(classes)}, AutoTokenizer" if classes else f"{_kind(classes)}, AutoTokenizer"


def _base(classes: int) -> str:
    config = ", config=AutoConfig.from_pretrained(ADAPTER)" if classes else ""
    return f"{_kind(classes)}.from_pretrained(BASE{config})"


def _head_in_words(classes: int) -> str:
    if not classes:
        return ""
    return (
        f"\nIt gives one of {classes:,} classes, named in `config.json`; its head is in the adapter, trained whole.\n"
        "It reads the class at the last token of the text, the end of text that the tokenizer puts there.\n"
    )

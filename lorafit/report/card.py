"""The model card that travels with an adapter: what it is, how it was made, how to use it."""

from lorafit.recipe.schema import Recipe
from lorafit.report.units import percent

LIBRARY_HEADER = "---\nlibrary_name: peft\nbase_model: {base}\ntags: [lorafit, lora]\n---\n"


def model_card(recipe: Recipe, trained: int) -> str:
    """Write the card of a fully fine-tuned model; likewise without time or machine."""
    sources = ", ".join(f"`{source.path}`" for source in recipe.data.train)
    base = recipe.model.path
    return (
        f"---\nlibrary_name: transformers\nbase_model: {base}\ntags: [lorafit]\n---\n\n# `{base}`, fine-tuned\n\n"
        f"Trained with lorafit: all {trained:,} parameters, in float32, on {sources}. It loads with\n"
        "`AutoModelForCausalLM.from_pretrained(FOLDER)`; `lorafit merge RUN --out FOLDER --dtype bfloat16` halves it.\n"
    )


def adapter_card(recipe: Recipe, trainable: int, total: int, target_count: int) -> str:
    """Write the card. It holds nothing of the time or the machine, so that equal runs give equal files."""
    adapter = recipe.adapter
    sources = ", ".join(f"`{source.path}`" for source in recipe.data.train)
    base = recipe.model.path
    return (
        LIBRARY_HEADER.format(base=base)
        + f"""
# Adapter for `{base}`

Trained with lorafit: `{adapter.kind}` on {target_count} layers, {trainable:,} of {total:,} parameters
({percent(trainable, total)}), base held as `{recipe.quantization.kind}`, on {sources}.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER)
tokenizer = AutoTokenizer.from_pretrained(ADAPTER)  # brings the chat template of the training
```

`BASE` is the folder or hub id of the base model, `ADAPTER` this folder. `lorafit merge RUN --out FOLDER` folds
the adapter into the base.
"""
    )

"""Load a tokenizer, and with it the data of a recipe: all that comes before the weights, without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from lorafit.data import tokenizer_files
from lorafit.data.cache import Cache, default_cache
from lorafit.data.classes import end_documents
from lorafit.data.prepare import PreparedData, TokenRows, prepare
from lorafit.data.template_defaults import settle
from lorafit.errors import ModelError, first_line
from lorafit.model.find import check_weights, find_model, refuse_code
from lorafit.plan.base_config import are_learned, positions, refuse_stored_quantised
from lorafit.plan.find_shape import read_config
from lorafit.recipe.schema import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# what transformers lets through when a folder's files are damaged
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError, StrictDataclassError)


def read_data(recipe: Recipe, cache: Cache | None) -> tuple[Path, "PreTrainedTokenizerBase", PreparedData]:
    """Find the model, and turn the rows into what it is trained on; doubtful rows stop here, before any weight.

    What was prepared before comes from the cache.
    """
    model_folder = find_model(recipe.model.path, recipe.model.revision)
    config = read_config(model_folder / "config.json")
    refuse_code(model_folder, config)
    refuse_stored_quantised(config, str(model_folder / "config.json"))
    check_weights(model_folder)
    tokenizer, data = _prepared(recipe, model_folder, config, cache)
    return model_folder, tokenizer, data


def read_rows(recipe: Recipe) -> tuple["PreTrainedTokenizerBase", PreparedData]:
    """Turn the rows into what a model would be trained on, with its tokenizer alone: weights need not be there."""
    folder = find_model(recipe.model.path, recipe.model.revision, weights=False)
    path = folder / "config.json"
    config = read_config(path) if path.exists() else {}
    refuse_code(folder, config)
    return _prepared(recipe, folder, config, default_cache())


def _prepared(
    recipe: Recipe, folder: Path, config: Mapping[str, Any], cache: Cache | None
) -> tuple["PreTrainedTokenizerBase", PreparedData]:
    template = Path(recipe.data.chat_template) if recipe.data.chat_template else None
    tokenizer = load_tokenizer(folder, template)
    decided = settle(tokenizer, recipe.data.chat_template_kwargs)
    data = prepare(recipe, tokenizer, cache)
    data.remarks.extend([decided] if decided else [])
    if data.labels:
        end_documents(tokenizer)  # as it was when the rows were tokenised, be that now or long ago
    sets = [data.train, *([data.validation] if data.validation else [])]
    check_vocabulary(sets, config)
    data.remarks.extend(check_positions(sets, config))
    return tokenizer, data


def check_positions(sets: Sequence[TokenRows], config: Mapping[str, Any]) -> list[str]:
    """Remark on rows longer than the model was made for. ModelError where it cannot read them at all."""
    most = positions(config)
    beyond = [(rows, rows.lengths > most) for rows in sets if most is not None and len(rows)]
    count = sum(int(longer.sum()) for _, longer in beyond)
    if not count or most is None:
        return []
    rows, longer = next(each for each in beyond if each[1].any())
    place, tokens = rows.place(int(longer.argmax())), max(int(rows.lengths.max()) for rows, _ in beyond)
    fix = f"data.max_length: {most} with on_overlong: drop or truncate"
    if are_learned(config):
        what = f"the row is longer than the {most:,} positions that the model has embeddings of"
        raise ModelError(what, where=place, fix=fix, code="E4-POSITIONS")
    return [
        f"warning: {count:,} rows are longer than the {most:,} positions that the model was made for (the longest has "
        f"{tokens:,} tokens; {place} for one): they are new to it; {fix} leaves them out"
    ]


def check_vocabulary(sets: Sequence[TokenRows], config: Mapping[str, Any]) -> None:
    """Refuse rows with a token that the model has no embedding of: the tokenizer belongs to another model."""
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else config
    known = text.get("vocab_size") if text else None
    for rows in sets:
        row = int(rows.largest_ids.argmax()) if len(rows) else -1
        if isinstance(known, int) and row >= 0 and (found := int(rows.largest_ids[row])) >= known:
            raise ModelError(
                f"the row holds token {found:,}, and the model has embeddings of {known:,}",
                where=rows.place(row),
                fix="give the tokenizer that belongs to the model, or enlarge the model's embeddings first",
                code="E4-VOCABULARY",
            )


def load_tokenizer(folder: Path, template: Path | None = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a folder, with another chat template if one is given. ModelError when it fails."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    try:
        made_of = tokenizer_files.hashed(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if tokenizer_files.hashed(folder) != made_of:
            raise OSError("its files changed meanwhile; start again")
    except LOAD_ERRORS as error:
        raise ModelError(
            f"cannot load the tokenizer: {first_line(error)}",
            where=str(folder),
            fix="get tokenizer.json, tokenizer_config.json and the like again, from where the weights came",
            code="E4-TOKENIZER",
        ) from None
    if template is not None:
        try:
            tokenizer.chat_template = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"cannot read the template: {error}",
                where="data.chat_template",
                fix="give a Jinja file in UTF-8",
                code="E4-TEMPLATE",
            ) from None
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    tokenizer_files.note(tokenizer, made_of)
    for argument in ("local_files_only", "is_local"):  # of this call, which transformers would save with it
        tokenizer.init_kwargs.pop(argument, None)
    return tokenizer

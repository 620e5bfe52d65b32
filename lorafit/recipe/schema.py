"""The recipe: everything a user may write, typed once and described once."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lorafit.recipe.adapters import Adapter, Full, Lora
from lorafit.recipe.formats import FormatName
from lorafit.recipe.optimizers import OptimizerName
from lorafit.recipe.quantization import Quantization, Unquantized
from lorafit.recipe.spec import Spec

PathText = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
NameText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Columns = dict[str, NameText]
TemplateValue = bool | int | float | str
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DEFAULT_ADAPTER = "lora"
COUNT = 10**9  # more steps or rows than any run has; what counts them need not fear larger numbers


class ModelSpec(Spec):
    """The base model."""

    path: PathText = Field(description="Hub id, local folder, or `builtin:tiny`.")
    revision: NameText | None = Field(default=None, description="Commit, tag or branch of a hub model; pin a commit.")
    dtype: Dtype = Field(
        default="auto", description="Of the base weights; auto: bfloat16 on a card that has it, else float32."
    )
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = Field(
        default="auto",
        description="Attention kernel; auto takes the fastest that keeps packed documents apart.",
    )


_COLUMNS = "Field of the format -> column of the file, where they differ: `{prompt: question, completion: answer}`."


class Source(Spec):
    """One place that rows come from."""

    path: PathText = Field(
        description="File, folder, glob, `builtin:sql`, URL (fsspec: `s3://`, `hf://`), or hub data set id."
    )
    format: FormatName = Field(default="auto", description="Layout of a row; auto goes by the columns and says so.")
    columns: Columns = Field(default={}, description=_COLUMNS)
    split: NameText = Field(default="train", description="Split, where the source has several.")
    weight: float = Field(
        default=1.0, gt=0, le=1e6, description="Share of this source in the mix, relative to its rows."
    )
    limit: int | None = Field(default=None, ge=1, le=COUNT, description="Use the first so many rows.")


Sources = Annotated[list[Source], Field(min_length=1)]


class Validation(Spec):
    """Rows held out: a fraction of the training rows, or a source of their own."""

    fraction: float | None = Field(default=None, gt=0, lt=1, description="Share of the training rows to hold out.")
    path: PathText | None = Field(default=None, description="A source of its own, like those under `train`.")
    format: FormatName = Field(default="auto", description="Layout of a row of that source.")
    columns: Columns = Field(default={}, description=_COLUMNS)
    split: NameText = Field(default="validation", description="Split of that source.")
    limit: int | None = Field(default=None, ge=1, le=COUNT, description="Use the first so many rows of that source.")

    @model_validator(mode="after")
    def _exactly_one(self) -> "Validation":
        if (self.fraction is None) == (self.path is None):
            raise ValueError("give either fraction or path")
        return self


class DataSpec(Spec):
    """What the model is trained and validated on."""

    train: Sources = Field(description="A path, one source, or a list of sources.")
    validation: Validation | None = Field(default=None, description="What is held out; null holds nothing out.")
    max_length: int = Field(default=2048, ge=8, le=10_000_000, description="Longest row, in tokens.")
    packing: bool = Field(default=True, description="Put several short rows into one; they do not see each other.")
    train_on: Literal["assistant", "last_assistant", "all"] = Field(
        default="assistant",
        description="Turns the loss counts: each answer, the last answer, or every token.",
    )
    classification: Literal["head", "words"] = Field(
        default="head",
        description="Rows of format classification: train a head that picks a class, or write the label as an answer.",
    )
    on_overlong: Literal["error", "drop", "truncate"] = Field(
        default="error",
        description="A row above max_length: stop, leave it out, or cut its end; always counted.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        default="error", description="A row that cannot be read: stop, or leave it out; always listed."
    )
    chat_template: PathText | None = Field(
        default=None, description="Jinja file to use instead of the tokenizer's own template."
    )
    chat_template_kwargs: dict[str, TemplateValue] = Field(
        default={}, description="Values of the template's own variables, such as `enable_thinking: false`."
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _names_are_variables(cls, values: dict[str, TemplateValue]) -> dict[str, TemplateValue]:
        for name in values:
            if not name.isidentifier():
                raise ValueError(f"{name[:60]!r} is no name that a template's variable can have")
        return values

    @field_validator("train", mode="before", json_schema_input_type=PathText | Source | Sources)
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        if isinstance(value, str):
            return [{"path": value}]
        return [value] if isinstance(value, dict | Source) else value


class EarlyStopping(Spec):
    """Stop when the validation loss no longer falls; the best adapter is kept."""

    patience: int = Field(
        default=3, ge=1, le=COUNT, description="Evaluations without a better loss before the run stops."
    )
    min_delta: float = Field(default=0.0, ge=0, description="A fall smaller than this does not count.")


class TrainingSpec(Spec):
    """How the model is trained."""

    epochs: float | None = Field(default=None, gt=0, le=10_000, description="Passes over the data; 1 by default.")
    max_steps: int | None = Field(default=None, ge=1, le=COUNT, description="Optimizer steps, instead of epochs.")
    global_batch_size: int = Field(
        default=16, ge=1, le=10**6, description="Rows (packed: packs) per optimizer step, over all GPUs."
    )
    micro_batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=10**6)] = Field(
        default="auto",
        description="Rows per forward pass; auto: as many as fit, of the divisors of a process's rows of a step, up to "
        "16,384 tokens. Gradients do not depend on it, but for rounding, and for dropout, which is drawn pass by pass.",
    )
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="Peak; about ten times full fine-tuning's.")
    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field(
        default="cosine",
        description="Course of the learning rate after the warm-up (wsd: flat, then down at the end).",
    )
    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.03, description="Fraction of the steps (below 1), or a number of steps."
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Decoupled decay of the trained weights.")
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="Clip the gradient to this norm; null: never.")
    optimizer: OptimizerName = Field(default="adamw", description="AdamW; 8-bit moments and paging save memory.")
    gradient_checkpointing: Literal["auto", "none", "full", "offloaded"] = Field(
        default="auto",
        description="Recompute activations: less memory, a third more time. offloaded: what that keeps of a layer, "
        "its input, waits in the host's memory. auto: each if needed to fit, in as few layers as will do.",
    )
    sharding: Literal["auto", "none", "full"] = Field(
        default="auto",
        description="Several processes: each holds the whole frozen base (none), or a part of every layer, which is "
        "gathered while it is used (full, FSDP2). auto: full if the base does not fit one card.",
    )
    eval_every: int | None = Field(
        default=None, ge=1, le=COUNT, description="Steps between evaluations; null: only at the end."
    )
    save_every: int | None = Field(
        default=None, ge=1, le=COUNT, description="Steps between checkpoints; null: only at the end."
    )
    keep_checkpoints: int = Field(
        default=2, ge=2, le=COUNT, description="Newest checkpoints kept (with early stopping the best too)."
    )
    early_stopping: EarlyStopping | None = Field(default=None, description="Stop when validation stops improving.")

    @model_validator(mode="before")
    @classmethod
    def _one_epoch_by_default(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("epochs") is None and value.get("max_steps") is None:
            return value | {"epochs": 1}
        return value

    @model_validator(mode="after")
    def _not_both(self) -> "TrainingSpec":
        if self.epochs is not None and self.max_steps is not None:
            message = "give either epochs or max_steps, and leave the other out, or null (--set training.epochs=null)"
            raise PydanticCustomError("rule", message, {"at": "max_steps"})
        return self


class OutputSpec(Spec):
    """Where the run is written."""

    dir: PathText | None = Field(default=None, description="Run folder; by default `runs/<recipe name>`.")
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default=[], description="Experiment trackers to report to; each is an optional package."
    )


class Recipe(Spec):
    """One recipe serves every command."""

    version: Literal[1] = Field(description="Version of this format.")
    seed: int = Field(default=42, ge=0, lt=2**32, description="Of every random choice of the run.")
    model: ModelSpec
    quantization: Quantization = Field(default_factory=Unquantized, description="How the frozen base is held.")
    adapter: Adapter = Field(default_factory=Lora, description="What is trained.")
    data: DataSpec
    training: TrainingSpec = Field(default_factory=TrainingSpec, description="How it is trained.")
    output: OutputSpec = Field(default_factory=OutputSpec, description="Where the run is written.")

    @model_validator(mode="before")
    @classmethod
    def _adapter_is_lora_by_default(cls, value: object) -> object:
        if isinstance(value, dict) and isinstance(adapter := value.get("adapter"), dict):
            return value | {"adapter": {"kind": DEFAULT_ADAPTER} | adapter}
        return value

    @model_validator(mode="after")
    def _full_needs_plain_weights(self) -> "Recipe":
        if isinstance(self.adapter, Full) and not isinstance(self.quantization, Unquantized):
            message = "adapter.kind full trains the weights themselves, and quantized ones cannot be trained"
            raise PydanticCustomError("rule", message, {"at": "quantization.kind"})
        return self

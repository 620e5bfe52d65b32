"""What is trained, tensor by tensor, against PEFT on the real models, built on the meta device."""

from collections import Counter
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import transformers_weight_conversion as stacks
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

from lorafit.errors import RecipeError
from lorafit.model.adapt import attach
from lorafit.plan.assumed import stacked_adapter_parameters
from lorafit.plan.catalogue import Entry, entries
from lorafit.plan.families import FAMILIES
from lorafit.plan.holdings import trained_tensors
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.targets import ADAPTED_STACKS, taken_for_stacks
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora, RegexTargets
from lorafit.recipe.quantization import Unquantized

BUILDABLE = [entry for entry in entries() if not FAMILIES[str(entry.config["model_type"])].remote_code]
ONE_OF_EACH_FAMILY = list({str(entry.config["model_type"]): entry for entry in reversed(BUILDABLE)}.values())
CLASSES = 3
SHALLOW = 4  # a family's kinds of layer are among the first four
EVERY_DAY: dict[str, Adapter] = {
    "lora": Lora(rank=3),
    "dora on attention": Dora(rank=3, target_modules="attention"),
    "rslora on the mlp": Lora(rank=3, rslora=True, target_modules="mlp"),
}
TARGETS: tuple[Any, ...] = ("all-linear", "attention", "mlp", RegexTargets(regex=r".*\.1\..*"))
SOAK: dict[str, Adapter] = (
    {"full": Full(), "rslora": Lora(rank=3, rslora=True), "dropout": Lora(rank=3, dropout=0.1)}
    | {f"lora {targets}": Lora(rank=3, target_modules=targets) for targets in TARGETS}
    | {f"dora {targets}": Dora(rank=3, target_modules=targets) for targets in TARGETS}
)


def shallow(config: dict[str, Any]) -> dict[str, Any]:
    depth = "n_layer" if "n_layer" in config else "num_hidden_layers"
    lists = {key: config[key][:SHALLOW] for key in ("layer_types", "mlp_layer_types") if config.get(key)}
    return config | lists | {depth: min(SHALLOW, config[depth])}


def build(config: dict[str, Any], classes: int) -> PreTrainedModel:
    settings = {key: value for key, value in config.items() if key != "model_type"}
    made = CONFIG_MAPPING[config["model_type"]](**settings | {"pad_token_id": None})
    if classes:
        made.num_labels = classes
    with torch.device("meta"):
        return (AutoModelForSequenceClassification if classes else AutoModelForCausalLM).from_config(made)


def assert_same(config: dict[str, Any], adapter: Adapter, classes: int = 0) -> None:
    """Compare the sizes of all trained tensors; of full fine-tuning, which has no targets, the sum."""
    question = MemoryQuestion(shape_from_config(config, "toy"), adapter, Unquantized(), classes=classes)
    model = build(config, classes)
    try:
        planned = trained_tensors(question)
    except RecipeError:
        with pytest.raises(RecipeError):
            attach(model, adapter, "toy", 0)
        return
    with torch.device("meta"):
        attached = attach(model, adapter, "toy", 0).model
    trained = Counter(parameter.numel() for parameter in attached.parameters() if parameter.requires_grad)
    if not isinstance(adapter, Full):
        assert planned == trained
    assert sum(size * count for size, count in planned.items()) == sum(size * count for size, count in trained.items())


def named(entry: Entry) -> str:
    return str(entry.config["model_type"])


@pytest.mark.parametrize("entry", ONE_OF_EACH_FAMILY, ids=named)
@pytest.mark.parametrize("adapter", EVERY_DAY.values(), ids=EVERY_DAY)
def test_adapters_of_every_family_are_those_of_peft(entry: Entry, adapter: Adapter) -> None:
    assert_same(shallow(dict(entry.config)), adapter)


@pytest.mark.parametrize("entry", [entry for entry in ONE_OF_EACH_FAMILY if named(entry) in CLASSIFIERS], ids=named)
@pytest.mark.parametrize("adapter", [Lora(rank=3, target_modules="attention"), Full()], ids=["lora", "full"])
def test_classifiers_train_their_head_too(entry: Entry, adapter: Adapter) -> None:
    assert_same(shallow(dict(entry.config)), adapter, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", SOAK.values(), ids=SOAK)
@pytest.mark.parametrize("entry", BUILDABLE, ids=lambda entry: entry.hub_id)
def test_every_model_and_adapter(entry: Entry, adapter: Adapter) -> None:
    assert_same(dict(entry.config), adapter)
    if named(entry) in CLASSIFIERS:
        assert_same(dict(entry.config), adapter, CLASSES)


@pytest.mark.parametrize("entry", ONE_OF_EACH_FAMILY, ids=named)
def test_which_linears_peft_takes_for_stacks(entry: Entry) -> None:
    """PEFT's own table, by which it turns names into the stacks of experts; routers never get an adapter."""
    pattern = stacks._MODEL_TO_CONVERSION_PATTERN.get(named(entry))
    names = set(stacks._MOE_TARGET_MODULE_MAPPING.get(pattern, {})) - {"gate"}
    shape = shape_from_config(entry.config, entry.hub_id)
    leaves = {linear.name.rpartition(".")[2] for linear in shape.linears()}
    assert {leaf for leaf in leaves if taken_for_stacks(leaf, named(entry))} == names & leaves
    assert (named(entry) in ADAPTED_STACKS) == bool(names)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")  # PEFT's, of its own patterns
@pytest.mark.parametrize("entry", [each for each in ONE_OF_EACH_FAMILY if named(each) in ADAPTED_STACKS], ids=named)
def test_what_pefts_own_all_linear_adds(entry: Entry) -> None:
    """Which the estimate of transformers leaves out, and says so; but for the gates of shared experts, it is exact."""
    config, own = shallow(dict(entry.config)), LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(build(config, 0), own)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    question = MemoryQuestion(shape_from_config(config, "toy"), Lora(rank=3), Unquantized())
    ours = sum(size * count for size, count in trained_tensors(question).items())
    assert trained - ours == pytest.approx(stacked_adapter_parameters(question.shape, 3), rel=0.001)

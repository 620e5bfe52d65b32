"""`estimate-vram` as its user sees it: the answer as JSON and text, cards, advice, and faults."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorafit.errors import ModelError, RecipeError
from lorafit.plan.advice import longest_row, most_rows
from lorafit.plan.cards import GIB, cards, cards_that_hold, find_card
from lorafit.plan.counts import tokens_of_a_row, tokens_to_train_on
from lorafit.plan.memory import estimate
from lorafit.plan.vram import Answer, answer
from lorafit.recipe.adapters import Dora, Lora
from lorafit.recipe.quantization import Nf4, Unquantized
from lorafit.recipe.schema import DataSpec, ModelSpec, Recipe, Source, TrainingSpec

OPTIONS = {
    "model": None, "method": None, "rank": None, "target_modules": None, "max_length": None,
    "micro_batch_size": None, "gpus": 1, "gpu": None,
}  # fmt: skip

PRODUCT_KEYS = [
    "model", "method", "gpus", "peak_bytes", "low_bytes", "high_bytes", "peak_phase", "components",
    "trainable_parameters", "total_parameters", "fits", "advice",
]  # fmt: skip


def ask(recipe: Recipe | None = None, **options: object) -> Answer:
    return answer(recipe, **(OPTIONS | options))


def a_recipe(**blocks: object) -> Recipe:
    blocks = {"model": ModelSpec(path="meta-llama/Meta-Llama-3-8B-Instruct")} | blocks
    return Recipe(version=1, data=blocks.pop("data", DataSpec(train=[Source(path="rows")])), **blocks)


def test_the_json_that_other_programs_read() -> None:
    found = json.loads(json.dumps(ask(model="70b", method="qlora", gpu="48GB").as_json()))
    assert list(found)[: len(PRODUCT_KEYS)] == PRODUCT_KEYS
    assert (found["model"], found["method"], found["gpus"]) == ("meta-llama/Meta-Llama-3-70B", "qlora", 1)
    assert all(set(part) == {"name", "bytes", "formula", "in_peak"} for part in found["components"])
    assert sum(part["bytes"] for part in found["components"] if part["in_peak"]) == found["peak_bytes"]
    beyond = {part["name"]: part["bytes"] for part in found["components"] if not part["in_peak"]}
    assert beyond["CUDA context beyond the peak"] == found["context_bytes"]
    assert beyond["reserved by torch beyond the peak"] == found["reserved_bytes"]
    assert {"device", "capacity_bytes", "fits", "headroom_bytes"} <= set(found["fits"])
    assert all(set(each) == {"change", "saves_bytes"} for each in found["advice"])
    assert "meta-llama/Llama-2-70b-hf" in found["alternatives"]


def test_without_a_card_fits_is_null() -> None:
    assert ask(model="8b").as_json()["fits"] is None


def test_the_text_names_what_was_taken_the_sum_and_the_verdict() -> None:
    text = ask(model="8b", method="qlora", gpu="rtx-4090").as_text()
    assert "taken as meta-llama/Meta-Llama-3-8B" in text
    assert "By its name it could also be meta-llama/Llama-3.1-8B" in text
    assert "linear weights in nf4" in text
    assert "PEAK, allocated by torch" in text
    assert "FITS rtx-4090 (23.52 GiB usable)" in text
    assert "With every layer recomputed: most rows a pass at this length" in text


def test_the_column_of_the_table_adds_up() -> None:
    lines = ask(model="8b").as_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("GiB"))
    end = next(i for i, line in enumerate(lines) if "PEAK" in line)
    parts = [float(line.split()[0]) for line in lines[start + 1 : end]]
    assert sum(parts) == pytest.approx(float(lines[end].split()[0]), abs=0.01 * len(parts))


def test_a_name_alone_stands_for_the_default_recipe() -> None:
    question = ask(model="8b").question
    assert (question.adapter, question.quantization, question.optimizer) == (Lora(), Unquantized(), "adamw")
    assert (question.max_length, question.micro_batch_size, question.checkpointing) == (2048, 1, True)


def test_a_method_on_four_bits_takes_a_lean_optimizer() -> None:
    question = ask(model="8b", method="qdora").question
    assert (question.adapter, question.quantization) == (Dora(), Nf4(keep_unpacked="none"))
    assert question.optimizer == "paged_adamw_8bit"
    assert question.method == "qdora"


def test_options_take_the_place_of_the_recipe() -> None:
    adapter = Lora(rank=8, alpha=4.0, target_modules="mlp")
    recipe = a_recipe(adapter=adapter, training=TrainingSpec(optimizer="adamw_8bit"))
    question = ask(
        recipe, method="qdora", rank=64, target_modules="q_proj, v_proj", max_length=512, micro_batch_size=3
    ).question
    assert question.adapter == Dora(rank=64, alpha=4.0, target_modules=["q_proj", "v_proj"])
    assert question.quantization == Nf4()
    assert (question.max_length, question.micro_batch_size, question.optimizer) == (512, 3, "adamw_8bit")
    assert ask(recipe, model="mistral-7b").model.taken_as == "mistralai/Mistral-7B-v0.3"


def test_auto_is_one_recomputed_row_without_a_card_and_what_fits_with_one() -> None:
    recipe = a_recipe(data=DataSpec(train=[Source(path="rows")], max_length=512), quantization=Nf4())
    bare, small, large = (ask(recipe, gpu=gpu).question for gpu in (None, "12GB", "h200"))
    assert (bare.micro_batch_size, bare.checkpointing) == (1, True)
    assert small.micro_batch_size < large.micro_batch_size == 16
    assert not large.checkpointing
    assert not large.accumulation
    for question, gpu in ((small, "12GB"), (large, "h200")):
        assert estimate(question).on_card_bytes <= find_card(gpu).capacity_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no model"),
        ({"model": "8b", "method": "qlor"}, "did you mean qlora"),
        ({"model": "8b", "method": "full", "rank": 8}, "no rank"),
        ({"model": "8b", "rank": 5000}, "--rank: expected .*4096., got 5000; lorafit estimate-vram --help"),
        ({"model": "8b", "max_length": 7}, "--max-length: expected .*, got 7; "),
        ({"model": "8b", "target_modules": ""}, "--target-modules: it names no layer; give all-linear, attention, mlp"),
        ({"model": "8b", "target_modules": ","}, "--target-modules: it names no layer; give"),
        ({"model": "8b", "target_modules": "q" * 201}, "--target-modules: expected text of 1 to 200 characters, got"),
        ({"model": "8b", "target_modules": "q_prj"}, "did you mean 'q_proj'"),
        ({"model": "8b", "gpu": "rtx-409"}, "rtx-4090"),
    ],
)
def test_faults_of_the_command_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        ask(**options)
    assert len(caught.value.faults) == 1


def test_an_unknown_model_is_a_fault_of_the_model() -> None:
    with pytest.raises(ModelError):
        ask(a_recipe(model=ModelSpec(path="someone/private")))
    with pytest.raises(ModelError, match=r"^--model: no model folder"):
        ask(model="./none")
    with pytest.raises(ModelError, match=r"^model\.path: no model folder"):
        ask(a_recipe(model=ModelSpec(path="./none")))


def test_every_advice_saves_what_it_says() -> None:
    found = ask(model="8b", method="dora", micro_batch_size=4)
    assert [each.saves_bytes for each in found.advice] == sorted((a.saves_bytes for a in found.advice), reverse=True)
    saved = {each.change: each.saves_bytes for each in found.advice}
    assert all(count > 0 for count in saved.values())
    packed = estimate(replace(found.question, quantization=Nf4()))
    assert saved["quantization.kind: nf4"] == found.estimate.peak_bytes - packed.peak_bytes


def test_no_advice_repeats_what_is_done() -> None:
    changes = {each.change for each in ask(model="8b", method="qlora").advice}
    changes -= {"training.gradient_checkpointing: offloaded"}  # recomputed it is; the host holds nothing yet
    assert not any(change.startswith(("quantization", "training")) for change in changes)


def test_longest_row_and_most_rows_are_on_the_edge() -> None:
    found = ask(model="8b", method="qlora", gpu="24GB")
    capacity = found.fit.card.capacity_bytes
    rows, length = most_rows(found.question, capacity, 999), longest_row(found.question, capacity, 999)
    assert estimate(replace(found.question, micro_batch_size=rows)).on_card_bytes <= capacity
    assert estimate(replace(found.question, micro_batch_size=rows + 1)).on_card_bytes > capacity
    assert estimate(replace(found.question, max_length=length)).on_card_bytes <= capacity
    assert estimate(replace(found.question, max_length=length + 256)).on_card_bytes > capacity
    assert length % 256 == 0
    assert "Assumed: the longest row is looked for in steps of 256 tokens, below that of 8" in found.as_text()
    assert "steps of 256" not in ask(model="8b", method="qlora").as_text()


def test_a_row_that_is_shorter_than_a_step_is_found_too() -> None:
    question = ask(model="8b", method="full").question
    sizes = {
        length: estimate(replace(question, max_length=length, micro_batch_size=1)).on_card_bytes
        for length in (8, 128, 136, 256)
    }
    assert sizes[8] < sizes[128] < sizes[136] < sizes[256]
    assert longest_row(question, sizes[136] - 1, 16) == 128
    assert longest_row(question, sizes[8], 16) == 8
    assert longest_row(question, sizes[8] - 1, 16) == 0


@pytest.mark.parametrize("gpu", ["12GB", "24GB"])
def test_what_auto_is_said_to_reach_it_reaches_and_nothing_longer(gpu: str) -> None:
    recipe = a_recipe(quantization=Nf4())
    found = ask(recipe, gpu=gpu).fit
    kept, away = found.reaches
    assert (kept.recomputation, away.recomputation) == (
        "every layer recomputed",
        "every layer recomputed, from the host",
    )
    assert 0 < kept.longest_row < away.longest_row == found.as_json()["longest_row_tokens"]
    assert kept.host_bytes == 0 < away.host_bytes
    for reach in (kept, away):
        at_the_edge = ask(recipe, gpu=gpu, max_length=reach.longest_row)
        assert (at_the_edge.fit.verdict, at_the_edge.question.offloaded) == ("fits", reach is away)
        assert f"{reach.longest_row:,} tokens" in ask(recipe, gpu=gpu).as_text()
    assert ask(recipe, gpu=gpu, max_length=int(away.longest_row * 1.03)).fit.verdict != "fits"


def test_two_cards_share_a_base_for_longer_rows() -> None:
    recipe = a_recipe()
    found = ask(recipe, gpu="24GB", gpus=2).fit
    assert [reach.recomputation.endswith("the base split") for reach in found.reaches] == [False, False, True]
    longest = found.reaches[-1].longest_row
    assert longest > found.reaches[-2].longest_row
    at_the_edge = ask(recipe, gpu="24GB", gpus=2, max_length=longest)
    assert (at_the_edge.fit.verdict, at_the_edge.question.sharded) == ("fits", True)


def test_plain_transformers_keeps_nothing_on_the_host() -> None:
    recipe = a_recipe(quantization=Nf4())
    found = ask(recipe, gpu="16GB", max_length=8192, engine="transformers")
    assert (found.fit.verdict, found.question.recomputed, found.question.offloaded) == ("does not fit", 32, False)
    assert len(found.fit.reaches) == 1


def test_a_reserve_is_not_called_the_most_that_fit() -> None:
    found = ask(a_recipe(quantization=Nf4()), gpu="80GB", max_length=512)
    more = replace(found.question, micro_batch_size=found.question.micro_batch_size * 2)
    said = "\n".join(found.assumptions)
    assert estimate(more).on_card_bytes < found.fit.card.capacity_bytes  # and is not taken: a step has no more rows
    assert "among the divisors of the 16 rows of a step" in said
    assert "as many as 80% of the card hold" in said


def test_cards_without_a_row_are_said_to_idle() -> None:
    assert any("of 64 GPUs all but 16 idle" in line for line in ask(model="8b", gpus=64).assumptions)
    assert not any("idle" in line for line in ask(model="8b", gpus=16).assumptions)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1e9", 10**9),
        ("1B", 10**9),
        ("500M", 5 * 10**8),
        ("1.5b", 1_500_000_000),
        ("1_000_000", 10**6),
        ("1,000,000", 10**6),
        ("2k", 2000),
        ("123456789012345", 123456789012345),
    ],
)
def test_counts_as_people_type_them(text: str, count: int) -> None:
    assert tokens_to_train_on(text) == count


@pytest.mark.parametrize("text", ["", "0", "-5", "1e400", "1e99", "1.5", "nan", "inf", "9" * 40, "many", "1e9e9", "²"])
def test_a_count_that_is_none(text: str) -> None:
    with pytest.raises(RecipeError, match="--tokens") as error:
        tokens_to_train_on(text)
    assert error.value.faults[0].fix


def test_thousands_of_a_row_are_those_of_its_range() -> None:
    assert [tokens_of_a_row(text) for text in ("8k", "8192", "32K", "1.5k")] == [8192, 8192, 32768, 1536]
    for text in ("7", "10000001", "8kb"):
        with pytest.raises(RecipeError, match="--max-length"):
            tokens_of_a_row(text)


def test_small_answers_are_in_one_unit() -> None:
    found = ask(model="builtin:tiny", swept="max_length=64,128")
    assert "GiB" not in found.as_text().replace("0.3 to 2 GiB", "").replace("some hundred MiB", "")
    assert "on card  MiB" in found.as_text()


def test_what_does_not_fit_says_which_cards_would_do() -> None:
    found = ask(model="70b", gpu="24GB")
    assert found.fit.verdict == "does not fit"
    assert found.fit.headroom_bytes < 0
    assert [reach.longest_row for reach in found.fit.reaches] == [0]
    assert "DOES NOT FIT 24 GB card" in found.as_text()
    assert "b200" in found.as_text()


def test_tight_lies_between_fits_and_does_not_fit() -> None:
    order = ["does not fit", "tight", "fits"]
    peak = ask(model="8b").estimate.on_card_bytes / GIB
    seen = [ask(model="8b", gpu=f"{peak + size / 50}GB").fit for size in range(-10, 40)]
    ranks = [order.index(fit.verdict) for fit in seen]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}
    assert all(fit.as_json()["fits"] == (fit.headroom_bytes >= 0) for fit in seen)
    assert [fit.spare_bytes for fit in seen] == sorted(fit.spare_bytes for fit in seen)
    assert all((fit.spare_bytes >= 0) == (fit.verdict == "fits") for fit in seen)


@pytest.mark.parametrize("engine", ["lorafit", "transformers"])
@pytest.mark.parametrize("gpu", ["24GB", "40GB", "80GB"])
def test_what_a_card_reaches_does_not_depend_on_the_rows_that_were_asked_about(gpu: str, engine: str) -> None:
    """A pass that is a whole step holds no gradients of an earlier one, and fewer rows would."""
    found = [
        ask(model="llama-3.2-1b", method="full", gpu=gpu, engine=engine, micro_batch_size=rows).fit
        for rows in (1, 3, 16, 40)
    ]
    (reach,) = {fit.reaches[-1] for fit in found}
    fits = [each.verdict == "fits" for each in found]
    assert fits == sorted(fits, reverse=True) or engine == "lorafit"
    assert fits[0] == (reach.longest_row >= 2048)
    assert (reach.most_rows >= 1) >= fits[0]


@pytest.mark.parametrize(("method", "cards"), [("qlora", 3), ("lora", None), ("qdora", None), ("full", None)])
def test_as_many_cards_are_named_as_share_the_base(method: str, cards: int | None) -> None:
    """DoRA and full fine-tuning are never split; a 70B model in 16 bits is more than eight such cards hold."""
    found = ask(model="70b", method=method, gpu="24GB")
    assert found.fit
    assert found.fit.together == cards
    assert (", or 3 of this one that share the base (--gpus 3)" in found.as_text()) == bool(cards)
    verdicts = {n: ask(model="70b", method="qlora", gpu="24GB", gpus=n).fit for n in (2, 3)}
    assert [fit and fit.verdict for fit in verdicts.values()] == ["does not fit", "fits"]


def test_no_row_is_offered_that_the_model_cannot_read() -> None:
    found = ask(model="gpt2", method="full", gpu="24GB")
    assert found.fit
    assert [(reach.longest_row, reach.most_rows) for reach in found.fit.reaches] == [(1024, 0)]
    assert "data.max_length: 1024" in [each.change for each in ask(model="gpt2", max_length=4096).advice]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rtx-4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("rtx-4090-24gb", "rtx-4090"),
        ("a100", "a100-40gb"),
        ("A100 80GB", "a100-80gb"),
        ("a100-80", "a100-80gb"),
        ("v100_32", "v100-32gb"),
        ("h200-141", "h200"),
        ("4060-ti-16", "rtx-4060-ti-16gb"),
        ("h100-80gb", "h100"),
        ("H100 SXM5", "h100"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("Tesla T4", "t4"),
        ("a10g", "a10g"),
        ("a6000", "rtx-a6000"),
        ("24GB", "24 GB card"),
        ("48gb", "48 GB card"),
        ("80", "80 GB card"),
        ("23.5 GiB", "23.5 GB card"),
        ("24576MB", "24 GB card"),
        ("24564 MiB", "23.9883 GB card"),  # as nvidia-smi prints an rtx-4090
        ("0.25TB", "256 GB card"),
    ],
)
def test_cards_as_people_type_them(text: str, name: str) -> None:
    assert find_card(text).name == name


@pytest.mark.parametrize("text", ["", "0GB", "5000GB", "rtx", "h100-40gb", "gpu", "-24GB", "1TB", "512MB", "infGB"])
def test_an_unknown_card(text: str) -> None:
    with pytest.raises(RecipeError, match="no card") as error:
        find_card(text)
    assert error.value.faults[0].fix


@pytest.mark.parametrize("text", ["0GB", "0", "512MB"])
def test_a_capacity_of_nothing_is_no_cards_name(text: str) -> None:
    with pytest.raises(RecipeError, match="give one card's capacity, at least 1GB: --gpu 24GB") as error:
        find_card(text)
    assert "did you mean" not in str(error.value)


def test_a_card_offers_less_than_it_is_sold_with() -> None:
    assert 23 * GIB < find_card("24GB").capacity_bytes < 24 * GIB
    assert all(find_card(name) == card and card.capacity_bytes > 9 * GIB for name, card in cards().items())
    held = cards_that_hold(40 * GIB)
    assert [card.capacity_bytes for card in held] == sorted(card.capacity_bytes for card in held)
    assert held[0].capacity_bytes >= 40 * GIB


def test_the_context_must_fit_beside_the_tensors() -> None:
    found = ask(model="8b", method="qlora").estimate
    exact = (found.peak_bytes + found.context_bytes) / 0.98 / GIB
    just_not, just = (ask(model="8b", method="qlora", gpu=f"{exact + d:.4f}GB").fit for d in (-0.01, 0.01))
    assert (just_not.verdict, just.verdict) == ("does not fit", "tight")


def test_a_card_without_bfloat16_holds_the_rest_in_float32() -> None:
    found = ask(model="1b", method="qlora", gpu="t4")
    assert found.question.dtype == "float32"
    assert any("t4 has no bfloat16" in line for line in found.assumptions)


def test_other_cards_are_asked_for_what_they_would_take() -> None:
    found, elsewhere = ask(model="8b", gpu="t4"), ask(model="8b", gpu="16GB")
    assert (found.question.dtype, elsewhere.question.dtype) == ("float32", "bfloat16")
    names = ", ".join(card.name for card in cards_that_hold(elsewhere.estimate.on_card_bytes))
    assert f"Cards that would hold it, in bfloat16: {names}" in found.as_text()
    assert f"Cards that would hold it: {names}, or 2 of this one that share the base" in elsewhere.as_text()
    pinned = ask(a_recipe(model=ModelSpec(path="8b", dtype="float32")), gpu="t4")
    assert "Cards that would hold it: a100-40gb" in pinned.as_text()


def test_what_a_card_cannot_do_is_no_advice() -> None:
    change, recipe = "model.dtype: bfloat16", a_recipe(model=ModelSpec(path="8b", dtype="float32"))
    assert change in [each.change for each in ask(recipe, gpu="24GB").advice]
    assert change not in [each.change for each in ask(recipe, gpu="t4").advice]


def test_bfloat16_on_a_card_without_it_is_warned_of() -> None:
    recipe = a_recipe(model=ModelSpec(path="8b", dtype="bfloat16"))
    (said,) = ask(recipe, gpu="t4").warnings
    assert "t4 does not compute in it: `train` refuses the recipe there (E5-DTYPE): set model.dtype: float32" in said
    (said,) = ask(recipe, gpu="t4", engine="transformers").warnings
    assert "float16" in said
    assert "train" not in said
    assert ask(recipe, gpu="24GB").warnings == []


def test_plain_transformers_on_a_card_without_bfloat16_has_no_autocast_to_it() -> None:
    said = " ".join(ask(model="8b", gpu="t4", engine="transformers").assumptions)
    assert "the Trainer without autocast" in said
    assert "t4 trains in float32" in said
    assert "bf16 autocast" in " ".join(ask(model="8b", gpu="a10", engine="transformers").assumptions)


@pytest.mark.parametrize(("gpu", "why"), [(None, "no card is named"), ("48GB", "of 48 GB card"), ("t4", "of t4")])
def test_tokens_without_a_speed_are_said_to_give_no_hours(gpu: str | None, why: str) -> None:
    said = [line for line in ask(model="8b", gpu=gpu, tokens=10**9).as_json()["warnings"] if "hours" in line]
    assert [why in line and "--gpu, such as rtx-4090" in line for line in said] == [True]
    assert ask(model="8b", gpu=gpu).warnings == []


def test_tokens_with_a_speed_give_hours() -> None:
    found = ask(model="8b", gpu="rtx-4090", tokens=10**9)
    assert found.warnings == []
    assert found.work.hours is not None


def test_an_upcast_without_a_quantised_base_is_said_to_do_nothing() -> None:
    said = ask(model="8b", engine="transformers", upcast="all").warnings
    assert said == ["--upcast all turns nothing to float32: the base is not quantised"]
    assert ask(model="8b", engine="transformers", upcast="none").warnings == []
    assert ask(model="8b", method="qlora", engine="transformers", upcast="all").warnings == []


def test_what_pefts_all_linear_adapts_in_mixtures_is_warned_of() -> None:
    def said(**options: object) -> list[str]:
        found = ask(**({"model": "8x7b", "engine": "transformers", "method": "lora"} | options))
        return [line for line in found.warnings if "all-linear" in line]

    (whole,), (part,) = said(), said(gpus=8, sharding="full")
    assert "at least 2.6 GiB of weights and gradients, not counted here" in whole
    assert "at least 0.3 GiB" in part  # of each GPU
    (refused,) = said(method="dora")
    assert "it refuses DoRA there" in refused
    assert "GiB" not in refused
    others = ({"engine": "lorafit"}, {"method": "full"}, {"target_modules": "attention"}, {"model": "8b"})
    assert [said(**other) for other in (*others, {"engine": "transformers@4.48.1"})] == [[]] * 5


def test_what_full_fine_tuning_assumes_is_of_products_and_of_no_adapter() -> None:
    told = ask(model="8b", method="full", engine="transformers", gpus=2, sharding="full").assumptions
    assert any(line.startswith("products in bfloat16") for line in told)
    assert "under FSDP with autocast accelerate turns trained weights to float32" in told
    assert not any("adapters" in line for line in told)


@pytest.mark.parametrize(
    ("habit", "method", "idle"),
    [
        ("old-bitsandbytes", "lora", True), ("old-bitsandbytes", "qlora", False),
        ("narrow-adapters", "full", True), ("narrow-adapters", "lora", False),
    ],
)  # fmt: skip
def test_a_habit_that_changes_nothing_is_said_to(habit: str, method: str, idle: bool) -> None:
    asked = {"model": "8b", "engine": "transformers", "method": method}
    changed = ask(**asked, habits=[habit])
    assert [f"--habit {habit} changes nothing" in said for said in changed.warnings] == [True] * idle
    assert (changed.estimate.peak_bytes == ask(**asked).estimate.peak_bytes) == idle


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 100,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = ask(model=str(tmp_path))
    assert found.estimate.total_parameters == found.model.shape.total_parameters
    assert "MiB" in found.as_text()


def test_that_most_of_a_mixture_stays_in_16_bits_is_said_at_the_top() -> None:
    said = ask(model="mixtral-8x7b", method="qlora")
    assert any("97% of the weights are experts" in line and "stay in bfloat16" in line for line in said.warnings)
    listed = ask(model="mixtral-8x7b", method="qlora", engine="transformers@4.48.1")  # linears, which are packed
    assert not ask(model="mixtral-8x7b", method="lora").warnings + listed.warnings

"""Which linears get an adapter, on the names of real families and on invented ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.errors import RecipeError
from lorafit.plan.catalogue import entries
from lorafit.plan.shapes import shape_by_name, shape_from_config
from lorafit.plan.targets import leaf_counts, match_targets, part_of
from lorafit.recipe.adapters import RegexTargets


def names(model: str) -> list[str]:
    return [linear.name for linear in shape_by_name(model).shape.linears()]


LLAMA = names("llama-3.2-1b")


def test_attention_and_mlp_make_up_all_linear() -> None:
    attention, mlp = match_targets("attention", LLAMA), match_targets("mlp", LLAMA)
    assert leaf_counts(attention) == {"q_proj": 16, "k_proj": 16, "v_proj": 16, "o_proj": 16}
    assert leaf_counts(mlp) == {"gate_proj": 16, "up_proj": 16, "down_proj": 16}
    assert match_targets("all-linear", LLAMA) == LLAMA


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.hub_id)
def test_every_family_of_the_catalogue_has_its_parts(entry: object) -> None:
    shape = shape_from_config(entry.config, entry.hub_id)
    parts = {linear.name: part_of(linear.name) for linear in shape.linears()}
    for linear in shape.linears():
        assert parts[linear.name] == (None if linear.kind == "router" else linear.kind)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lm_head", None),
        ("score", None),
        ("model.decoder.layers.3.fc1", "mlp"),
        ("model.decoder.layers.3.self_attn.out_proj", "attention"),
        ("transformer.blocks.0.ffn.up_proj", "mlp"),
        ("transformer.blocks.0.norm_attn_norm.attn.Wqkv", "attention"),
        ("encoder.layer.7.attention.output.dense", "attention"),
        ("encoder.layer.7.intermediate.dense", "mlp"),
        ("model.layers.0.block_sparse_moe.gate", None),
        ("model.layers.0.block_sparse_moe.experts.7.w1", "mlp"),
        ("model.layers.0.mlp.shared_expert_gate", None),
        ("model.layers.0.mlp.router", None),
        ("model.layers.0.feed_forward.router", None),
        ("model.layers.0.mlp.gate_proj", "mlp"),
        ("backbone.layers.0.mixer.in_proj", "mixer"),
        ("model.layers.0.linear_attn.in_proj_qkvz", "attention"),
        ("model.vision_tower.encoder.layers.0.self_attn.q_proj", None),
        ("model.language_model.layers.0.self_attn.q_proj", "attention"),
    ],
)
def test_the_part_is_told_from_where_a_linear_sits(name: str, part: str | None) -> None:
    assert part_of(name) == part


def test_all_linear_leaves_out_head_router_and_vision() -> None:
    extra = ["lm_head", "model.layers.0.mlp.gate", "model.vision_tower.encoder.layers.0.mlp.fc1"]
    assert match_targets("all-linear", [*LLAMA, *extra]) == LLAMA


def test_a_list_takes_last_parts_suffixes_and_full_names_in_model_order() -> None:
    chosen = match_targets(["v_proj", "self_attn.q_proj", "model.layers.2.mlp.up_proj"], LLAMA)
    assert leaf_counts(chosen) == {"q_proj": 16, "v_proj": 16, "up_proj": 1}
    assert chosen == [name for name in LLAMA if name in set(chosen)]


def test_a_name_is_cut_at_dots_only() -> None:
    with pytest.raises(RecipeError):
        match_targets(["proj"], LLAMA)


def test_a_router_may_be_named_but_is_never_implied() -> None:
    linears = names("phi-3.5-moe")
    assert any(name.endswith("mlp.router") for name in match_targets(["router"], linears))
    assert not any(name.endswith("router") for name in match_targets("all-linear", linears))


def test_linears_that_peft_takes_for_stacks_of_experts_get_no_adapter() -> None:
    linears = names("deepseek-v3")
    chosen = match_targets("all-linear", linears, "deepseek_v3")
    assert chosen == match_targets("attention", linears)
    for spec in ("mlp", ["down_proj"], RegexTargets(regex=r".*\.shared_experts\..*")):
        with pytest.raises(RecipeError, match="stacked experts"):
            match_targets(spec, linears, "deepseek_v3")
    with pytest.raises(RecipeError, match="'q_prj' names no linear layer"):
        match_targets(["q_prj"], linears, "deepseek_v3")


def test_a_regular_expression_matches_in_full() -> None:
    chosen = match_targets(RegexTargets(regex=r"model\.layers\.[01]\.self_attn\.[qv]_proj"), LLAMA)
    assert len(chosen) == 4
    with pytest.raises(RecipeError, match="matches no linear layer in full"):
        match_targets(RegexTargets(regex="self_attn"), LLAMA)


@pytest.mark.parametrize("regex", ["(", "(a+)+b"])
def test_a_broken_or_endless_expression_is_refused(regex: str) -> None:
    with pytest.raises(RecipeError, match="E2-TARGETS"):
        match_targets(RegexTargets(regex=regex), LLAMA)


def test_names_that_match_nothing_are_all_told_with_what_there_is() -> None:
    with pytest.raises(RecipeError) as caught:
        match_targets(["q_prj", "v_proj", "w1"], LLAMA)
    assert [fault.what.split("'")[1] for fault in caught.value.faults] == ["q_prj", "w1"]
    assert "did you mean 'q_proj'?" in caught.value.faults[0].fix
    assert "gate_proj (16)" in caught.value.faults[0].fix


@pytest.mark.parametrize("linears", [[], ["lm_head"], names("mixtral-8x7b")])
def test_an_empty_part_is_an_error(linears: list[str]) -> None:
    with pytest.raises(RecipeError, match="'mlp' selects no linear layer"):
        match_targets("mlp", linears)


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z_]{1,8}(\.[a-z_0-9]{1,8}){0,4}", fullmatch=True), unique=True))
def test_what_is_chosen_is_there_and_in_order(linears: list[str]) -> None:
    for keyword in ("all-linear", "attention", "mlp"):
        try:
            chosen = match_targets(keyword, linears)
        except RecipeError:
            continue
        assert chosen == [name for name in linears if name in set(chosen)]
        assert set(chosen) <= set(match_targets("all-linear", linears))


@pytest.mark.parametrize("entry", ["lm_head", "model.embed_tokens"])
def test_the_ends_of_a_model_are_told_from_a_name_it_lacks(entry: str) -> None:
    with pytest.raises(RecipeError, match="embedding and output head get no adapter"):
        match_targets([entry], ["model.layers.0.self_attn.q_proj"])
    with pytest.raises(RecipeError, match="names no linear layer"):
        match_targets(["head"], ["model.layers.0.self_attn.q_proj"])

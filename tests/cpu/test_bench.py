"""The benchmarks compare the same work: every side sees the same tokens and has the same losses."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.work import work as count_work
from lorafit.recipe.adapters import Lora
from lorafit.recipe.quantization import Unquantized
from scripts.bench import ranks, ranks_where
from scripts.bench.breakdown import kind_of, product_operations, profiled
from scripts.bench.contenders import CONTENDERS, Step
from scripts.bench.engine import HEADER, rows
from scripts.bench.work import WORKS, Work

SMALL = replace(WORKS["C1"], hidden=128, layers=2, vocabulary=500, longest=64)
STEPS = 2


def steps(work: Work, name: str) -> list[Step]:
    told: list[Step] = []
    CONTENDERS[name](work, STEPS, told.append)
    return told


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("peer", ["loop", "trainer"])
def test_every_side_does_the_same_work(peer: str, quantization: Any) -> None:
    work = replace(SMALL, quantization=quantization)
    ours, theirs = steps(work, "lorafit"), steps(work, peer)
    assert [step.tokens for step in ours] == [step.tokens for step in theirs]
    torch.testing.assert_close([step.loss for step in ours], [step.loss for step in theirs], rtol=1e-5, atol=0)


@pytest.mark.parametrize("full_rows", [None, 48])
def test_operations_are_counted_as_the_plan_counts_them(full_rows: int | None) -> None:
    work = replace(SMALL, full_rows=full_rows)
    lengths = work.lengths()
    row = round((lengths**2).sum() / lengths.sum())
    question = MemoryQuestion(
        shape=shape_from_config(work.config.to_dict(), "bench"),
        adapter=Lora(rank=16),
        quantization=Unquantized(),
        max_length=row,
        checkpointing=False,
        target_share=1.0 if full_rows else 0.6,
    )
    assert work.flops_per_token == pytest.approx(count_work(question, None, None, None).flops_per_token, rel=0.005)


def test_a_missed_target_is_marked() -> None:
    ratio = {"speed": 1.2, "memory": 0.5, "target_speed": 1.4, "target_memory": None, "losses_apart": 1e-7}
    result = {"case": "C2", "about": "full rows", "share": 0.66, "peers": {"trainer": ratio}}
    peer, ceiling = rows(result)
    assert "| missed |" in peer
    assert "| met |" in ceiling
    assert peer.count("|") == ceiling.count("|") == len(HEADER) + 1


def test_a_profile_finds_every_product_of_a_step() -> None:
    kinds: dict[str, int] = {}
    events, _ = profiled(replace(SMALL, full_rows=48), "lorafit")
    for event in events:
        kind = kind_of(event, SMALL)
        kinds[kind] = kinds.get(kind, 0) + product_operations(event)
    rows, targets = SMALL.batch_rows * 48, SMALL.batch_rows * 47
    linears = [128 * 128, 128 * 64, 128 * 64, 128 * 128, *[128 * 352] * 3]
    assert kinds["head products"] == 2 * 2 * targets * 128 * 500
    assert kinds["base products, forward"] == SMALL.layers * 2 * rows * sum(linears)
    assert kinds["base products, backward"] == kinds["base products, forward"] - 2 * rows * sum(linears[:3])
    assert {"attention, forward", "attention, backward", "gated MLP", "norms", "adapter products"} < kinds.keys()


def test_several_processes_stand_beside_one_and_beside_as_many_alone() -> None:
    found = {case.name: [(100.0, 1.0)] * 2 for case in ranks.CASES}
    found["2 x alone"], found["2 x whole"] = [(180.0, 1.0), (190.0, 1.0)], [(171.0, 1.1), (171.0, 1.3)]
    assert "| 2 x whole | 1.71 x | 92% | 1.20 x |" in ranks.rows(found)
    assert "| 2 x alone | 1.85 x | 100% | 1.00 x |" in ranks.rows(found)


def test_what_is_timed_within_something_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    hands = {"perf_counter": lambda: clock.now, "process_time": lambda: clock.now / 2}
    monkeypatch.setattr(ranks_where, "time", SimpleNamespace(**hands))

    class Work:
        def inner(self) -> None:
            clock.now += 3

        def outer(self) -> None:
            clock.now += 1
            self.inner()
            self.inner()

    watch = ranks_where.Watch()
    watch.over(Work, "inner", "exchange of ")
    watch.over(Work, "outer", ranks_where.TIMED[-1][2])
    for _ in range(2):
        Work().outer()
    assert watch.steps == [{"numbers": [1.0, 0.5, 1], "exchange of numbers": [6.0, 3.0, 2]}] * 2

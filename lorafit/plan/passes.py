"""What comes and goes in a step with the layers: what they keep, and their worst moments."""

from collections import Counter
from typing import Literal, NamedTuple, cast

from lorafit.plan.block import play_layer, widths
from lorafit.plan.layers import Layer
from lorafit.plan.load import NOTHING, Load
from lorafit.plan.operations import Setting
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.tape import Form, Tape
from lorafit.recipe.adapters import Dora, Full
from lorafit.recipe.quantization import Bits4, Int8, Unquantized


class LayerLoad(NamedTuple):
    """One layer in a step."""

    waiting: Load  # kept from its forward for its backward
    working: Load  # live at the worst moment of its backward (and of its recomputation), what it kept included
    forward: Load  # live at the worst moment of its forward, with all that it keeps
    cached: Load  # kept by `use_cache` alone, as long as the model's outputs are
    away: Load  # on the host from its forward to its backward
    trained: int  # values trained in it
    keeps_input: bool  # for its backward, as it came


class Passes(NamedTuple):
    """The layers in order, and the bytes per hidden unit of what leaves the last of them."""

    layers: list[LayerLoad]
    stream_bytes: int

    def waiting(self, layers: int) -> Load:
        """What the first so many layers keep on the card: the newest has not left for the host yet, or is back."""
        newest = self.layers[layers - 1].away if layers else NOTHING
        return self._of(layers, "waiting") + newest

    def away(self, layers: int) -> Load:
        """What they keep on the host."""
        return self._of(layers, "away")

    def _of(self, layers: int, part: Literal["waiting", "away", "cached"]) -> Load:
        kinds = {id(layer): layer for layer in self.layers}
        counts = Counter(map(id, self.layers[:layers]))
        return sum((getattr(kinds[kind], part).times(count) for kind, count in counts.items()), NOTHING)

    def cached(self) -> Load:
        """What `use_cache` holds."""
        return self._of(len(self.layers), "cached")


def play_passes(question: MemoryQuestion) -> Passes:
    """Play every distinct layer once; of a shape that was read off a class nothing is known that could be played."""
    if question.shape.read_off:
        unknown = LayerLoad(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, trained=0, keeps_input=False)
        return Passes([unknown] * len(question.shape.layers), 0)
    played: dict[tuple[int, frozenset[str], int, bool, bool, bool, int | None], tuple[LayerLoad, int]] = {}
    loads, stream = [], question.stream_bytes
    for index, layer in enumerate(question.shape.layers):
        adapted = question.matched.of_layers[index]
        # nothing below the first layer is trained; for recomputation transformers has its input want a gradient too
        first = index == 0 and (not question.checkpointing or question.shape.changed_embeddings)
        again = index < question.recomputed
        packed = index >= question.unpacked_layers
        window = question.shape.windows[index] if question.shape.windows else None
        key = (id(layer), adapted, stream, first, again, packed, window)
        if key not in played:
            setting = _setting(question, packed=packed)._replace(window=window)
            played[key] = _play(question, setting, layer, adapted, stream, first=first, again=again)
        load, stream = played[key]
        loads.append(load)
    return Passes(loads, stream)


def _play(
    question: MemoryQuestion,
    setting: Setting,
    layer: Layer,
    adapted: frozenset[str],
    stream: int,
    *,
    first: bool,
    again: bool,
) -> tuple[LayerLoad, int]:
    width_of = widths(question.shape, layer, question.rank, question.max_length)
    tape = Tape(width_of, question.tokens)
    memory = play_layer(
        layer,
        tape,
        setting,
        adapted,
        input_bytes=stream,
        lowest=first and not again,
        recomputed=again,
        reenters=question.stack is not None and question.stack.reenters,
    )
    sent = stream if again and question.offloaded else 0
    working, forward = _load(memory.backward, width_of), _load(memory.forward, width_of)
    if again:
        waiting = _load(Form({"hidden": _inputs(question, stream, first=first) - sent}), width_of)
        if not (question.stack and question.stack.reenters):
            pinned = _load(memory.pinned, width_of)
            waiting, working = waiting + pinned, working + pinned
    else:
        waiting = _load(memory.kept, width_of)
    cached = _load(_cached(question, layer, again=again), width_of)
    away, trained = _load(Form({"hidden": sent}), width_of), _trained(question, layer, adapted)
    keeps = memory.keeps_input
    return LayerLoad(waiting, working, forward, cached, away, trained, keeps), memory.output_bytes


def _inputs(question: MemoryQuestion, stream: int, *, first: bool) -> int:
    """Bytes per hidden unit that a recomputed layer keeps of its input.

    An embedding that is frozen is where the graph begins: it stays beside what it was scaled to, or beside what dropout
    left of it and the mask of that.
    """
    if not first:
        return stream
    mask = 1 if question.shape.dropped_embeddings else 0
    return stream + mask if question.is_full else 2 * stream + mask


def _cached(question: MemoryQuestion, layer: Layer, *, again: bool) -> Form:
    """What `use_cache` holds that the backward does not hold anyway."""
    attention, stack = layer.attention, question.stack
    if stack is None or not stack.cache or attention.kind != "softmax":
        return Form({})
    if again:  # keys and values are views of the one projection, all of which stays
        whole = stack.stores_presents and attention.fused and not attention.turned
        packed = not isinstance(question.quantization, Unquantized)  # bitsandbytes answers in what it is asked in
        size = question.normed_bytes if packed else question.compute_bytes
        return Form({"query, key, value": size} if whole else {})
    shared = attention.key_width < attention.query_width and stack.kernel != "flash_attention_2"
    return Form({"key": 2 * question.compute_bytes} if shared else {})


def _setting(question: MemoryQuestion, *, packed: bool) -> Setting:
    kind: Literal["no", "4bit", "int8"] = "no"
    if packed and isinstance(question.quantization, Bits4 | Int8):
        kind = "4bit" if isinstance(question.quantization, Bits4) else "int8"
    flash = question.stack is not None and question.stack.kernel == "flash_attention_2"
    return Setting(
        compute_bytes=question.compute_bytes,
        packed=kind,
        packed_scales=kind == "4bit" and cast("Bits4", question.quantization).double_quant,
        full=question.is_full,
        dora=isinstance(question.adapter, Dora),
        dropout=not isinstance(question.adapter, Full) and question.adapter.dropout > 0,
        autocast=question.autocast,
        copies=question.copies_weights,
        norm_bytes=question.norm_bytes if question.stack else question.compute_bytes,
        adapter_bytes=question.trained_bytes,
        gradient_bytes=question.trained_bytes,
        gradients=_gradients(question),
        keeps_packed_inputs=question.stack is not None and question.stack.keeps_packed_inputs,
        plain=question.stack is not None,
        masked=question.stack is not None and question.stack.padded and not flash,
        windows_mask=not flash,
        bias_bytes=question.embedding_bytes,
        narrows=flash,
        groups=question.stack is None or flash or question.stack.groups_keys,
        fused=question.fused,
        explicit_attention=question.explicit_attention,
        documents=question.micro_batch_size,
    )


def _gradients(question: MemoryQuestion) -> Literal["kept", "added", "elsewhere"]:
    """Where a layer's gradients go; FSDP has room for all of a layer's before they come."""
    if question.sharded and question.stack:
        return "elsewhere"
    return "added" if question.accumulation or question.gradient_bytes == 0 else "kept"


def _trained(question: MemoryQuestion, layer: Layer, adapted: frozenset[str]) -> int:
    if isinstance(question.adapter, Full):
        return layer.parameters
    pairs = [(linear.in_features, linear.out_features) for linear in layer.linears if linear.name in adapted]
    return question.adapter.trainable_parameters(pairs)


def _load(form: Form, width_of: dict[str, int]) -> Load:
    return Load(Counter({(symbol, width_of[symbol]): size for symbol, size in form.per_token.items()}), form.constant)

"""What comes and goes in a step: the layers' activations, the logits and the loss."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from lorafit.plan.block import play_layer, widths
from lorafit.plan.layers import Layer
from lorafit.plan.load import NOTHING, Load
from lorafit.plan.operations import Setting
from lorafit.plan.question import Component, MemoryQuestion
from lorafit.plan.stack import Stack
from lorafit.plan.tape import Form, Tape
from lorafit.recipe.adapters import Dora, Full
from lorafit.recipe.quantization import Bits4, Int8, Unquantized

FLOAT32 = 4


@dataclass(frozen=True)
class LayerLoad:
    """One layer in a step."""

    waiting: Load  # kept from its forward for its backward
    working: Load  # live at the worst moment of its backward (and of its recomputation), what it kept included
    forward: Load  # live at the worst moment of its forward, with all that it keeps
    cached: Load  # kept by `use_cache` alone, as long as the model's outputs are
    away: Load  # on the host from its forward to its backward
    trained: int  # values trained in it


@dataclass(frozen=True)
class Passes:
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

    def _of(self, layers: int, part: Literal["waiting", "away"]) -> Load:
        kinds: dict[int, Load] = {id(layer): getattr(layer, part) for layer in self.layers}
        counts = Counter(id(layer) for layer in self.layers[:layers])
        return sum((kinds[kind].times(count) for kind, count in counts.items()), NOTHING)

    def cached(self) -> Load:
        """What `use_cache` holds."""
        return sum((layer.cached for layer in self.layers), NOTHING)


def play_passes(question: MemoryQuestion) -> Passes:
    """Play every distinct layer once."""
    targets = {linear.name for linear in question.targets}
    played: dict[tuple[int, frozenset[str], int, bool, bool, bool, int | None], tuple[LayerLoad, int]] = {}
    loads, stream = [], question.stream_bytes
    for index, layer in enumerate(question.shape.layers):
        prefix = f"{question.shape.prefix}.{index}."
        adapted = frozenset(linear.name for linear in layer.linears if prefix + linear.name in targets)
        # nothing below the first layer is trained; for recomputation transformers has its input want a gradient too
        first = index == 0 and (not question.checkpointing or question.shape.changed_embeddings)
        again = index < question.recomputed
        packed = index >= question.unpacked_layers
        window = question.shape.windows[index] if question.shape.windows else None
        key = (id(layer), adapted, stream, first, again, packed, window)
        if key not in played:
            setting = replace(_setting(question, packed=packed), window=window)
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
    return LayerLoad(waiting, working, forward, cached, away, trained), memory.output_bytes


def _inputs(question: MemoryQuestion, stream: int, *, first: bool) -> int:
    """Bytes per hidden unit that a recomputed layer keeps of its input.

    An embedding stays beside what it was scaled to, or beside what dropout left of it and the mask of that.
    """
    if not first:
        return stream
    mask = 1 if question.shape.dropped_embeddings else 0
    return 2 * stream + mask if not mask or not question.is_full else stream + mask


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
        full=question.is_full,
        dora=isinstance(question.adapter, Dora),
        dropout=not isinstance(question.adapter, Full) and question.adapter.dropout > 0,
        autocast=question.autocast,
        copies=question.copies_weights,
        norm_bytes=question.norm_bytes if question.stack else question.compute_bytes,
        adapter_bytes=question.trained_bytes,
        keeps_packed_inputs=question.stack is not None and question.stack.keeps_packed_inputs,
        masked=question.stack is not None and question.stack.padded and not flash,
        groups=question.stack is None or flash or question.stack.groups_keys,
        drops=not flash,
        fused=question.fused,
        explicit_attention=question.explicit_attention,
        documents=1 if question.stack else question.micro_batch_size,
    )


def _trained(question: MemoryQuestion, layer: Layer, adapted: frozenset[str]) -> int:
    if isinstance(question.adapter, Full):
        return layer.parameters
    pairs = [(linear.in_features, linear.out_features) for linear in layer.linears if linear.name in adapted]
    return question.adapter.trainable_parameters(pairs)


def _load(form: Form, width_of: dict[str, int]) -> Load:
    return Load(Counter({(symbol, width_of[symbol]): size for symbol, size in form.per_token.items()}), form.constant)


IDS_BYTES = 4 * 8  # of a token: its number, its position, whether it predicts, and what


def positions(question: MemoryQuestion) -> Component:
    """What every layer reads beside the stream: sines and cosines of positions, and the batch itself."""
    shape, tokens = question.shape, question.tokens
    width = max((layer.attention.rotary_width for layer in shape.layers), default=0)
    table = 2 * shape.position_tables * width * question.embedding_bytes
    return Component(
        "positions and the batch", tokens * (table + IDS_BYTES), f"{tokens:,} tokens x ({table:,} + {IDS_BYTES}) bytes"
    )


CHUNK_LOGITS = 2**25  # float32 values of logits that stand at once under a frozen head: 128 MiB


def head_forward(question: MemoryQuestion, stream_bytes: int) -> Component:
    """Final norm, logits, their float32 copy and log-softmax: the most that is live while the loss is computed."""
    if question.classes:
        return _class_head(question, stream_bytes)
    if question.chunked_head:
        return _chunked_head(question, stream_bytes)
    if question.stack:
        return _transformers_head(question, question.stack, stream_bytes)
    return _head(question, stream_bytes, "logits and loss", max(question.compute_bytes + FLOAT32, 2 * FLOAT32))


def head_backward(question: MemoryQuestion, stream_bytes: int) -> Component:
    """Log-softmax, its gradient and the gradient of the float32 logits."""
    if question.classes:
        return _class_head(question, stream_bytes)
    if question.chunked_head:
        return _chunked_head(question, stream_bytes)
    height = question.stack.loss_backward_bytes(question.shape.narrow_loss_before) if question.stack else 3 * FLOAT32
    if question.stack and question.stack.keeps_outputs:
        height += question.compute_bytes
    found = _head(question, stream_bytes, "logits, loss and their gradients", height)
    if question.is_full and question.stack is None and question.copies_weights:
        copied = question.shape.vocab_size * question.shape.hidden_size
        found = replace(found, bytes=found.bytes + 2 * copied, formula=f"{found.formula} + {copied:,} of the head x 2")
    return _with_head_copy(question, found)


def _transformers_head(question: MemoryQuestion, stack: Stack, stream_bytes: int) -> Component:
    """Beside what the loss makes, the model's frame still holds the last states."""
    height = stack.loss_forward_bytes(question.shape.narrow_loss_before) - 2 + question.compute_bytes
    head = _head(question, stream_bytes, "logits and loss", height)
    size = question.tokens * question.shape.hidden_size * question.normed_bytes
    return _with_head_copy(question, replace(head, bytes=head.bytes + size))


def _with_head_copy(question: MemoryQuestion, head: Component) -> Component:
    """Autocast takes a float32 head to 16 bits, and its product keeps that copy for the backward."""
    if not (question.stack and question.autocast and question.embedding_bytes == FLOAT32 and not question.is_full):
        return head
    copied = question.shape.vocab_size * question.shape.hidden_size
    return replace(head, bytes=head.bytes + 2 * copied, formula=f"{head.formula} + {copied:,} of the head x 2")


def _chunked_head(question: MemoryQuestion, stream_bytes: int) -> Component:
    """Logits of a chunk and what is made of them, beside the states of all targets and their gradient."""
    shape, targets = question.shape, question.target_tokens
    rows = min(targets, max(1, CHUNK_LOGITS // shape.vocab_size))
    states = 2 * question.compute_bytes
    if shape.layers[-1].norm == "layer" and question.autocast:  # which autocast leaves in float32
        states += FLOAT32
    normed = _norm_bytes(question, stream_bytes)
    each = FLOAT32 + question.embedding_bytes % FLOAT32  # a head of 16 bits makes and takes them in 16 bits
    return Component(
        "logits of a chunk, states and their gradient",
        rows * each * shape.vocab_size + (targets * states + question.tokens * normed) * shape.hidden_size,
        f"{rows:,} targets x {each} x {shape.vocab_size:,} vocabulary"
        f" + ({targets:,} targets x {states} + {question.tokens:,} tokens x {normed}) x {shape.hidden_size:,} hidden",
        passing=True,
    )


def _class_head(question: MemoryQuestion, stream_bytes: int) -> Component:
    """The final norm of every token and its gradient: logits of a few documents are nothing beside them."""
    size = _norm_bytes(question, stream_bytes) + 2 * question.compute_bytes
    tokens, hidden = question.tokens, question.shape.hidden_size
    return Component(
        "last states and their gradient",
        tokens * size * hidden,
        f"{tokens:,} tokens x {size} x {hidden:,} hidden",
        passing=True,
    )


def _norm_bytes(question: MemoryQuestion, stream_bytes: int) -> int:
    """The norm keeps a float32 copy of what the last layer gave; a float32 stream is that copy.

    Torch's own LayerNorm reads 16 bits as they are, where no autocast has it in float32; so does lorafit's norm.
    """
    lean = question.fused and question.shape.layers[-1].norm == "rms"
    return stream_bytes if lean or question.narrow_norms else FLOAT32


def _head(question: MemoryQuestion, stream_bytes: int, name: str, logit_bytes: int) -> Component:
    shape, targets = question.shape, question.target_tokens
    if shape.capped_logits:
        logit_bytes += question.compute_bytes
    normed = _norm_bytes(question, stream_bytes)
    if (
        question.is_full and question.stack is None
    ):  # a trained scale keeps what it scales, and a trained head its input
        normed += FLOAT32 + question.compute_bytes
    norm_bytes = question.tokens * normed * shape.hidden_size
    return Component(
        name,
        targets * logit_bytes * shape.vocab_size + norm_bytes,
        f"{targets:,} targets x {logit_bytes} x {shape.vocab_size:,} vocabulary"
        f" + {question.tokens:,} tokens x {normed} x {shape.hidden_size:,} hidden",
        passing=True,
    )

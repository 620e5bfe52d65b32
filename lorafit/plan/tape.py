"""The life of a layer's tensors in one forward and backward pass, counted in bytes instead of computed.

A `Tensor` here has a width and no values. It counts as live memory while something refers to it: a variable of the
block being played, or a node of the graph that saved it for its backward. That is how torch frees memory, so a block
written like the modelling code has its peaks at the same moments, temporaries included.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

CONSTANT = ""  # the symbol of bytes that do not grow with the tokens


class Form(NamedTuple):
    """Bytes as a linear form: for each width the bytes per unit and token, and a constant."""

    per_token: dict[str, int]
    constant: int = 0


class Tensor:
    """A tensor of [tokens, width]: alive as long as it is referred to."""

    __slots__ = ("__weakref__", "bytes_each", "edge", "needs_grad", "remake", "symbol", "tape", "whole")

    def __init__(
        self,
        tape: "Tape",
        symbol: str,
        bytes_each: int,
        edge: int = 0,
        needs_grad: bool = False,
        whole: "Tensor | None" = None,
    ) -> None:
        self.tape, self.symbol, self.bytes_each = tape, symbol, bytes_each
        self.edge, self.needs_grad = edge, needs_grad
        self.remake: Remake | None = None  # how its readers make it again, who then do not keep it
        self.whole = whole  # what it is a view into: all of that lives as long as the view
        if whole is None:
            tape.count(symbol, bytes_each)

    def __del__(self) -> None:
        if self.whole is None:
            self.tape.count(self.symbol, -self.bytes_each)


@dataclass
class Remake:
    """A tensor that is made again in the backward: it lives from the first to the last of those who read it."""

    sources: tuple[Tensor, ...]
    readers: int = 0
    made: Tensor | None = None

    def read(self, tape: "Tape", symbol: str, bytes_each: int) -> Tensor:
        """Give it to one reader."""
        made = self.made or Tensor(tape, symbol, bytes_each)
        self.readers -= 1
        self.made = made if self.readers else None
        return made


class WeightGradient(NamedTuple):
    """Bytes of a weight's gradient as the product gives it, then as it is kept or, `added`, goes into what is there."""

    made: int
    kept: int
    added: bool


@dataclass
class Node:
    """One operation of the graph: where its gradient comes from and goes, what it keeps, what it needs meanwhile."""

    output: int
    form: tuple[str, int]  # symbol and bytes of the output
    inputs: list[tuple[int, str, int, bool]]  # edge, symbol, bytes of each gradient; whether of a part of the input
    saved: Sequence[Tensor]
    first_scratch: Sequence[tuple[str, int]]  # temporaries of its backward, gone before it makes any gradient
    scratch: Sequence[tuple[str, int]]  # those beside its gradients
    again: tuple[Remake, str, int] | None  # what it makes again at first, with symbol and bytes
    passes_on: bool  # hands its own gradient to the inputs, as an addition does
    recalls: bool  # asks for something that was kept, be it a weight that is there anyway
    weight: "WeightGradient | None" = None  # what its trained weight gets

    def hands_on(self, symbol: str, bytes_each: int) -> bool:
        """Tell whether an input's gradient is the node's own: autograd casts it where the input is narrower."""
        return self.passes_on and (symbol != self.form[0] or bytes_each == self.form[1])


@dataclass
class Tape:
    """Counts live bytes over a forward and a backward pass of `tokens` tokens, and remembers the worst moment."""

    widths: dict[str, int]
    tokens: int
    recomputed: bool = False  # what is kept is made again, and gone once a backward has read it
    live: Counter[str] = field(default_factory=Counter)
    live_bytes: int = 0
    peak_bytes: int = 0
    _at_peak: dict[str, int] = field(default_factory=dict)
    _edges: int = 0
    _nodes: list[Node] = field(default_factory=list)
    _peak_at_save: tuple[int, dict[str, int]] = field(default=(0, {}))
    weight_gradients: list[Tensor] = field(default_factory=list)

    def count(self, symbol: str, bytes_each: int) -> None:
        """Add to (or with a negative number take from) the live bytes."""
        self.live[symbol] += bytes_each
        self.live_bytes += bytes_each * self._scale(symbol)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self._at_peak = self.live_bytes, dict(self.live)

    def _scale(self, symbol: str) -> int:
        return 1 if symbol == CONSTANT else self.tokens * self.widths[symbol]

    def tensor(self, symbol: str, bytes_each: int, needs_grad: bool = True) -> Tensor:
        """Make a tensor that no recorded operation made: an input."""
        self._edges += 1
        return Tensor(self, symbol, bytes_each, self._edges, needs_grad)

    def temporary(self, symbol: str, bytes_each: int) -> Tensor:
        """Make a tensor that takes no part in the graph."""
        return Tensor(self, symbol, bytes_each)

    def view(self, x: Tensor, symbol: str, bytes_each: int | None = None, *, padded: bool = False) -> Tensor:
        """Read a part of a tensor where it lies; `padded`: its gradient is as wide as the whole, with zeros."""
        self._edges += 1
        size = x.bytes_each if bytes_each is None else bytes_each
        if x.needs_grad:
            piece = (x.edge, x.symbol, x.bytes_each, False) if padded else (x.edge, symbol, size, True)
            self._nodes.append(Node(self._edges, (symbol, size), [piece], (), (), (), None, not padded, False))
        return Tensor(self, symbol, size, self._edges, x.needs_grad, x)

    def record(
        self,
        symbol: str,
        bytes_each: int,
        inputs: Sequence[Tensor],
        saved: Sequence[Tensor] = (),
        scratch: Sequence[tuple[str, int]] = (),
        first_scratch: Sequence[tuple[str, int]] = (),
        again: tuple[Remake, str, int] | None = None,
        passes_on: bool = False,
        trains: bool = False,
        weight: WeightGradient | None = None,
        saves_output: bool = False,
        saves_weight: bool = False,
        saves_late: bool = False,
        part: str | None = None,
    ) -> Tensor:
        """Play one operation forward: keep what its backward needs, and give its output.

        `scratch` are temporaries of the backward (`first_scratch`, and what is made `again`, go before the gradients);
        `passes_on` marks an addition (its gradient is its inputs'), `trains` an operation with a trained weight, which
        has a gradient even where its input wants none (`weight`), `saves_weight` one that keeps a frozen weight: no
        memory, but recomputation goes by what is kept; `saves_late` an autograd function in Python, which keeps its
        inputs once it has computed; `part` names the width of what is read of a wider input: gradients of parts wait
        for one another and are joined.
        """
        wanting = [
            (x.edge, part or x.symbol, x.bytes_each, part not in (None, x.symbol)) for x in inputs if x.needs_grad
        ]
        in_graph = trains or bool(wanting)
        recalls = bool(saved) or saves_weight or saves_output
        if in_graph and (saved or saves_weight):  # torch keeps inputs before it computes
            self._peak_at_save = self.peak_bytes, self._at_peak
        output = self.tensor(symbol, bytes_each, needs_grad=in_graph)
        if in_graph:
            if saves_output or saves_late:
                self._peak_at_save = self.peak_bytes, self._at_peak
            kept = [*saved, output] if saves_output else list(saved)
            form = symbol, bytes_each
            node = Node(output.edge, form, wanting, kept, first_scratch, scratch, again, passes_on, recalls, weight)
            self._nodes.append(node)
        return output

    def live_form(self, without: Tensor) -> Form:
        """Give what is live now besides this tensor."""
        return _form(self.live - Counter({without.symbol: without.bytes_each}))

    def stop_at_last_save(self) -> None:
        """Forget a peak after the last tensor that was kept: recomputation ends there."""
        self.peak_bytes, self._at_peak = self._peak_at_save

    def begin_anew(self) -> None:
        """Forget the peak so far."""
        self.peak_bytes, self._at_peak = self.live_bytes, dict(self.live)

    def peak_form(self) -> Form:
        """Give what was live at the worst moment so far."""
        return _form(self._at_peak)

    def before_recomputation(self, edge: int, symbol: str, bytes_each: int) -> list[tuple[str, int]]:
        """Give the gradients that are there when the backward from this output first wants something that was kept.

        A checkpointed layer is recomputed at that moment, and not when the gradient of its output arrives.
        """
        gradients: dict[int, list[tuple[str, int]]] = {edge: [(symbol, bytes_each)]}
        for node in reversed(self._nodes):
            if node.recalls:
                break
            gradient = gradients.pop(node.output, [])
            for into, name, size, _ in node.inputs:
                gradients.setdefault(into, gradient if node.hands_on(name, size) else [(name, size)])
        return [each for made in {id(made): made for made in gradients.values()}.values() for each in made]

    def backward(self, edge: int, gradient: Tensor) -> None:
        """Play the backward pass from the output of this edge, itself gone, with the gradient that arrived."""
        gradients = {edge: [gradient]}
        del gradient
        while self._nodes:
            node = self._nodes.pop()
            pieces = gradients.pop(node.output)
            gradient = pieces[0] if len(pieces) == 1 else Tensor(self, *node.form)
            del pieces
            self._begin(node)
            meanwhile = [Tensor(self, symbol, size) for symbol, size in node.scratch]
            weight, raw = node.weight, Tensor(self, CONSTANT, node.weight.made if node.weight else 0)
            for edge, symbol, size, is_part in node.inputs:
                made = gradient if node.hands_on(symbol, size) else Tensor(self, symbol, size)
                waiting = gradients.setdefault(edge, [])
                if is_part or not waiting:  # a second gradient of the whole is added into the first
                    waiting.append(made)
                del made, waiting
            del meanwhile, gradient, node
            if weight:
                self._take(raw, weight)
            del raw

    def _take(self, raw: Tensor, weight: WeightGradient) -> None:
        """Bring a weight's gradient to the weight's own bytes, and keep it."""
        gradient = raw if weight.kept == weight.made else Tensor(self, CONSTANT, weight.kept)
        if not weight.added:
            self.weight_gradients.append(gradient)

    def _begin(self, node: Node) -> None:
        made = node.again[0].read(self, *node.again[1:]) if node.again else None
        first = [Tensor(self, symbol, size) for symbol, size in node.first_scratch]
        del made, first


def _form(live: dict[str, int]) -> Form:
    per_token = {symbol: size for symbol, size in live.items() if size and symbol != CONSTANT}
    return Form(per_token, live.get(CONSTANT, 0))

"""The part of a layer that mixes tokens, as it lies on a tape: projections, positions, kernels, or every score."""

from functools import partial

from lorafit.plan.layers import Attention, Layer, NormKind
from lorafit.plan.operations import FLOAT32
from lorafit.plan.plain_mixing import PlainMixing
from lorafit.plan.tape import CONSTANT, Tensor
from lorafit.plan.windows import mask_cells

DISTANCE_BYTES = 8 + 3  # of a cell of a mask in the making: an int64 distance, and what is asked of it


class Mixing(PlainMixing):
    """Attention as transformers lays it out and lorafit's kernels compute it."""

    def attention(self, layer: Layer, x: Tensor) -> Tensor:
        """From the normed stream to what the branch adds to it."""
        attention = layer.attention
        if attention.kind == "gated_delta":
            return self.gated_delta(attention, x)
        query, key, value = self.projected(attention, x, layer.norm)
        mixed = self.mixed(attention, query, key, value)
        if self.gated_query(attention):
            mixed = self.product(mixed, self.activation(query, "query"))
        return self.linear(mixed, attention.output, "hidden")

    def projected(self, attention: Attention, x: Tensor, norm: NormKind) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys with their positions, and values."""
        if attention.kind == "latent":
            return self.latent(attention, x, norm)
        tables = self.own_positions(attention)
        if attention.fused:
            both = self.linear(x, attention.inward[0], "query, key, value")
            parts = ("query", "key", "key")
            query, key, value = (self.tape.view(both, part, padded=attention.sliced) for part in parts)
            del both
            return self.turned(attention, query, "query", tables), self.turned(attention, key, "key", tables), value
        query_proj, key_proj, value_proj = attention.inward
        query = self.linear(x, query_proj, "query and gate" if self.gated_query(attention) else "query")
        key, value = self.linear(x, key_proj, "key"), self.linear(x, value_proj, "key")
        if attention.qk_norm:
            each = ("heads", "key heads") if attention.normed_heads else ("norm", "norm")
            query, key = self.norm(query, norm, each[0]), self.norm(key, norm, each[1])
        return self.turned(attention, query, "query", tables), self.turned(attention, key, "key", tables), value

    def own_positions(self, attention: Attention) -> list[Tensor]:
        """Sines and cosines, where the layer spreads them anew."""
        return [self.tape.temporary("turned", 2 * self.size)] if attention.own_positions else []

    def turned(self, attention: Attention, x: Tensor, symbol: str, tables: list[Tensor]) -> Tensor:
        """Queries or keys with their positions, or as they are where the embedding has those."""
        if not attention.turned:
            return x
        if not attention.turned_width:
            return self.rotated(x, symbol, tables)
        part = self.rotated(self.tape.view(x, f"turned {symbol}", padded=True), f"turned {symbol}", tables)
        rest = self.tape.view(x, f"rest of {symbol}", padded=True)
        return self.tape.record(symbol, x.bytes_each, [part, rest], passes_on=True)

    def gated_query(self, attention: Attention) -> bool:
        """Tell whether the projection of the queries gives a gate beside them."""
        return not attention.fused and attention.inward[0].out_features == 2 * attention.query_width

    def latent(self, attention: Attention, x: Tensor, norm: NormKind) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values out of narrow projections (DeepSeek-V2)."""
        *query_projs, narrow_proj, wide_proj = attention.inward
        query = self.linear(x, query_projs[0], "query" if len(query_projs) == 1 else "query latent")
        if len(query_projs) > 1:
            query = self.linear(self.norm(query, norm), query_projs[1], "query")
        narrow = self.norm(self.tape.view(self.linear(x, narrow_proj, "key latent"), "latent"), norm)
        narrow.remake = None  # the product reads a view of it, which does not know what it is made of
        both = self.linear(narrow, wide_proj, "key and value")
        query = self.joined(query, "query")
        key, value = self.tape.view(both, "key part"), self.tape.view(both, "value")
        return query, self.joined(key, "query"), value

    def joined(self, x: Tensor, symbol: str) -> Tensor:
        """A part that turns and one that does not, in a tensor of their own."""
        return self.tape.record(symbol, x.bytes_each, [x], saves_weight=True)

    def rotated(self, x: Tensor, symbol: str, tables: list[Tensor]) -> Tensor:
        """x cos + rotate_half(x) sin."""
        meanwhile, scratch = self.tape.temporary(symbol, 2 * x.bytes_each), [(symbol, x.bytes_each)]
        out = self.tape.record(symbol, x.bytes_each, [x], saved=tables, scratch=scratch, saves_weight=True)
        del meanwhile
        return out

    def mixed(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Values mixed by attention: by a kernel for all documents, or document by document."""
        if self.setting.plain:
            return self.plain_mixed(attention, query, key, value)
        query, key, value = (self.cast(x, self.size) for x in (query, key, value))
        explicit = self.setting.explicit_attention or attention.scores != "plain"
        if not explicit and self.size != FLOAT32 and attention.kind != "latent" and not attention.dropout:
            mixed = self.flash(query, key, value)
            return self.tape.record("query", self.size, [mixed]) if attention.joined else mixed
        attend = partial(self.explicit, attention) if explicit else partial(self.efficient, attention)
        parts = [attend(*self.document_of(query, key, value)) for _ in range(self.setting.documents)]
        symbol = "value" if attention.kind == "latent" else "query"
        joined = self.tape.record(symbol, self.size, parts, passes_on=True)
        del parts
        return self.tape.record(symbol, self.size, [joined])

    def document(self, width: int) -> int:
        """Values of a document at so many a token."""
        return width * self.tape.tokens // self.setting.documents

    def document_of(self, *tensors: Tensor) -> list[Tensor]:
        """Cut a document out."""
        return [self.tape.view(x, CONSTANT, self.document(self.tape.widths[x.symbol]) * self.size) for x in tensors]

    def document_heads(self, attention: Attention, x: Tensor) -> Tensor:
        """Keys or values of a document, repeated to all heads where heads share them."""
        every = self.document(attention.query_width) * self.size
        shared = attention.kind != "latent" and x.bytes_each < every
        return self.tape.record(CONSTANT, every, [x]) if shared else x

    def efficient(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One document's kernel, FlashAttention or the memory-efficient one: keeps inputs, output and log-sums."""
        keys, values = self.document_heads(attention, key), self.document_heads(attention, value)
        sums = self.document(attention.heads) * FLOAT32
        flash = self.size != FLOAT32 and attention.kind != "latent"  # FlashAttention adds gradients up in float32
        scratch = sums + (self.document(attention.query_width) * FLOAT32 if flash else 0)
        masks = self.window_masks()
        kept = self.tape.temporary(CONSTANT, sums + masks)
        out = self.document(attention.output.in_features) * self.size
        inputs = [query, keys, values]
        if not masks:
            return self.tape.record(CONSTANT, out, inputs, [*inputs, kept], [(CONSTANT, scratch)], saves_output=True)
        scratch += out  # the gradient of each window's part of a row is as long as the row
        parts = self.tape.record(CONSTANT, out, inputs, [*inputs, kept], [(CONSTANT, scratch)], saves_output=True)
        return self.tape.record(CONSTANT, out, [parts], passes_on=True)

    def window_masks(self) -> int:
        """Bytes of the biases that a document's windows keep, each made of distances and comparisons."""
        cells = mask_cells(self.document(1), self.setting.window)
        if cells:
            self.tape.temporary(CONSTANT, sum(cells[:-1]) * self.size + cells[-1] * DISTANCE_BYTES)
        return sum(cells) * self.size

    def explicit(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every score written out: products, cap, float32 mask and softmax, 16-bit shares."""
        keys, values = self.document_heads(attention, key), self.document_heads(attention, value)
        count = self.document(self.tape.widths["scores"])
        raw = self.tape.record(CONSTANT, count * self.size, [query, keys], saved=[query, keys])
        scores = self.tape.record(CONSTANT, count * self.size, [raw])
        del raw
        if attention.scores == "capped":
            divided = self.tape.record(CONSTANT, count * self.size, [scores])
            capped = self.tape.record(CONSTANT, count * self.size, [divided], saves_output=True)
            del divided
            scores = self.tape.record(CONSTANT, count * self.size, [capped])
            del capped
        shares, masked = self.shares(attention, scores, count)
        del scores
        out = self.document(attention.output.in_features) * self.size
        mixed = self.tape.record(CONSTANT, out, [shares, values], saved=[shares, values])
        del masked
        return mixed

    def shares(self, attention: Attention, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Softmax of masked float32 scores in 16 bits; and those scores, which stay as long as the frame."""
        visible = self.tape.temporary(CONSTANT, count // attention.heads)
        hidden = self.tape.temporary(CONSTANT, count // attention.heads)
        wide = scores if self.size == FLOAT32 else self.tape.record(CONSTANT, count * FLOAT32, [scores])
        masked = self.tape.record(CONSTANT, count * FLOAT32, [wide], saved=[hidden])
        del wide, hidden
        if attention.scores == "sinks":  # a column for the sinks
            masked = self.tape.record(CONSTANT, count * FLOAT32, [masked], passes_on=True)
        scratch = [(CONSTANT, count * FLOAT32)]
        shares = self.tape.record(CONSTANT, count * FLOAT32, [masked], scratch=scratch, saves_output=True)
        if self.size != FLOAT32:
            shares = self.tape.record(CONSTANT, count * self.size, [shares])
        if attention.dropout:
            mask = self.tape.temporary(CONSTANT, count)
            shares = self.tape.record(CONSTANT, count * self.size, [shares], saved=[mask])
        del visible
        return shares, masked

    def gated_delta(self, attention: Attention, x: Tensor) -> Tensor:
        """Linear attention, roughly: what its projections and a fused kernel keep."""
        parts = [self.linear(x, linear, linear.name) for linear in attention.inward]
        mixed = self.activation(parts[0], parts[0].symbol)
        out = self.tape.record("value", self.size, [mixed, *parts[1:]], saved=[mixed, *parts], saves_output=True)
        return self.linear(self.product(self.norm(out, "rms"), out), attention.output, "hidden")

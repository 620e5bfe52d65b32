"""Attention of plain transformers on a tape: torch's kernels for rows of one length, and every score written out."""

from lorafit.plan.layers import Attention
from lorafit.plan.operations import FLOAT32
from lorafit.plan.products import Products
from lorafit.plan.tape import CONSTANT, Tensor


class PlainMixing(Products):
    """`sdpa_attention_forward` and `eager_attention_forward` of transformers, with the kernels that a card takes."""

    def plain_mixed(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Values mixed over all rows at once; without autocast in the dtype of what comes."""
        if self.setting.explicit_attention or attention.scores != "plain":
            return self.eager(attention, query, key, value)
        same = attention.kind != "latent"  # keys as wide as values
        if self.read_bytes(query) != FLOAT32 and same and not self.masked_kernel:
            mixed = self.flash(*(self.narrowed(x) for x in (query, key, value)))
            return self.tape.record("query", mixed.bytes_each, [mixed]) if attention.joined else mixed
        if same and self.grouped and self.setting.groups and not self.masked_kernel:
            return self.written_out(attention, query, key, value)
        return self.memory_efficient(query, key, value)

    def read_bytes(self, x: Tensor) -> int:
        """Of a value as a kernel reads it: autocast has 16 bits, and without it all stays as it comes."""
        return self.size if self.setting.autocast or self.setting.narrows else x.bytes_each

    def narrowed(self, x: Tensor) -> Tensor:
        """As a kernel reads it."""
        return self.cast(x, self.read_bytes(x))

    @property
    def masked_kernel(self) -> bool:
        """A mask goes to the kernel: of padding, or of a window shorter than the rows."""
        window = self.setting.window
        return self.setting.masked or (self.setting.windows_mask and (window or self.row) < self.row)

    @property
    def row(self) -> int:
        """Tokens of a row."""
        return self.tape.widths["row"]

    @property
    def grouped(self) -> bool:
        """Several queries share a key."""
        return self.tape.widths["key"] < self.tape.widths["query"]

    def flash(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """FlashAttention, which keeps its inputs, output and log-sums; where it must, on keys and values repeated."""
        scratch, size = [("query", FLOAT32), ("heads", FLOAT32)], query.bytes_each
        keys, values = key, value
        if key.symbol == "key" and self.grouped:
            if self.setting.groups:  # the gradients of keys and values are made per head of the queries, then added up
                scratch.append(("query", 2 * size))
            else:
                keys, values = self.repeated(key), self.repeated(value)
        kept = [query, keys, values, self.tape.temporary("heads", FLOAT32)]
        return self.tape.record("query", size, [query, keys, values], kept, scratch, saves_output=True)

    def memory_efficient(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The kernel that takes float32, a bias, and keys of another width; it knows no grouped keys."""
        size, symbol = self.read_bytes(query), "value" if value.symbol == "value" else "query"
        if key.symbol == "key" and self.grouped:
            key, value = self.repeated(key), self.repeated(value)
        read = [self.narrowed(x) for x in (query, key, value)]
        kept = [*read, self.tape.temporary("heads", FLOAT32)]
        if self.masked_kernel:  # one bias for all heads
            kept.append(self.tape.temporary("row", size))
        scratch = [("heads", FLOAT32), ("query", FLOAT32 if size != FLOAT32 else 0)]  # gradients of queries, added up
        return self.tape.record(symbol, size, read, kept, scratch, saves_output=True)

    def repeated(self, x: Tensor) -> Tensor:
        """One copy per query head; a single head is read again and again where it lies (`repeat_kv`'s reshape)."""
        if self.tape.widths["key"] * self.tape.widths["heads"] == self.tape.widths["query"]:
            return self.tape.view(x, "query", padded=True)
        return self.tape.record("query", x.bytes_each, [x])

    def scored(self, attention: Attention, query: Tensor, keys: Tensor) -> Tensor:
        """Every product of a query and a key, times a number, and capped where the model caps it."""
        read = [self.narrowed(query), self.narrowed(keys)]
        raw = self.tape.record(CONSTANT, self.scores * read[0].bytes_each, read, saved=read)
        scores = self.scaled(raw)
        del raw
        if attention.scores == "capped":
            tanh = self.tape.record(CONSTANT, scores.bytes_each, [self.scaled(scores)], saves_output=True)
            scores = self.scaled(tanh)
        return scores

    @property
    def scores(self) -> int:
        """Scores of all rows and heads."""
        return self.tape.tokens * self.tape.widths["scores"]

    def eager(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every score written out; a mask as wide as the stream is added to them."""
        keys, values = self.per_head(attention, key), self.per_head(attention, value)
        scores = self.scored(attention, query, keys)
        wide = max(scores.bytes_each, self.scores * self.setting.bias_bytes)
        scores = self.tape.record(CONSTANT, wide, [scores], passes_on=True)
        shares = self.softmax(attention, scores, query.bytes_each)
        del scores
        read = [self.narrowed(values), self.cast(shares, self.scores * self.read_bytes(query))]
        mixed = self.tape.record("query", read[0].bytes_each, read, saved=read)
        return self.tape.record("query", mixed.bytes_each, [mixed])

    def per_head(self, attention: Attention, x: Tensor) -> Tensor:
        """Keys or values as a batched product reads them: of several rows, a single head has to be copied."""
        if attention.kind == "latent" or not self.grouped:
            return x
        return self.repeated(x) if self.tape.tokens == self.row else self.tape.record("query", x.bytes_each, [x])

    def softmax(self, attention: Attention, scores: Tensor, size: int) -> Tensor:
        """Shares in the dtype of the queries, of a softmax that is float32 and keeps what it gives."""
        count = self.scores
        as_it_comes = attention.narrow_softmax and not self.setting.autocast
        wide = scores.bytes_each if as_it_comes else count * FLOAT32
        if attention.scores == "sinks":  # a column for the sinks, less the greatest
            scores = self.tape.record(CONSTANT, scores.bytes_each, [scores])
            scores = self.scaled(scores)
        read = scores if scores.bytes_each == wide else self.tape.record(CONSTANT, wide, [scores])
        shares = self.tape.record(CONSTANT, wide, [read], scratch=[(CONSTANT, wide)], saves_output=True)
        del read
        if wide != count * size:
            shares = self.tape.record(CONSTANT, count * size, [shares])
        if attention.dropout:
            mask = self.tape.temporary(CONSTANT, count)
            shares = self.tape.record(CONSTANT, count * size, [shares], saved=[mask])
        return shares

    def written_out(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """torch's own formula, its way out where no kernel takes float32 with grouped keys and no mask.

        `_scaled_dot_product_attention_math` scales queries and repeated keys before their product.
        https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/attention.cpp
        """
        size, bias = query.bytes_each, self.tape.temporary(CONSTANT, self.row * self.row * query.bytes_each)
        scaled = self.scaled(query)
        keys, values = (self.tape.record("query", size, [x]) for x in (key, value))
        count = self.scores * size
        read = self.scaled(keys)
        scores = self.tape.record(CONSTANT, count, [scaled, read], saved=[scaled, read])
        del read
        rows = self.tape.temporary(CONSTANT, count + self.scores)  # which rows see nothing, and what they get
        shares = self.tape.record(CONSTANT, count, [scores], scratch=[(CONSTANT, count)], saves_output=True)
        del rows, scores
        if attention.dropout:
            mask = self.tape.temporary(CONSTANT, self.scores)
            shares = self.tape.record(CONSTANT, count, [shares], saved=[mask])
        mixed = self.tape.record("query", size, [shares, values], saved=[shares, values])
        del bias, keys, scaled
        return self.tape.record("query", size, [mixed])

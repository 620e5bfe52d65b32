"""The attention blocks of transformers' decoders: which linears they hold and how wide they are."""

from typing import Literal

from lorafit.plan.config_keys import ConfigKeys
from lorafit.plan.layers import Attention, Linear

# a bias is either there, or not, or decided by a key of config.json that has this default
Bias = bool | tuple[str, bool]
ATTENTION_BIAS: Bias = ("attention_bias", False)


def has_bias(keys: ConfigKeys, bias: Bias) -> bool:
    """Tell whether a linear of this model carries a bias."""
    return bias if isinstance(bias, bool) else keys.flag(*bias)


def _linears(module: str, *parts: tuple[str, int, int, bool]) -> tuple[Linear, ...]:
    return tuple(Linear(f"{module}.{name}", d_in, d_out, bias, "attention") for name, d_in, d_out, bias in parts)


def _head_width(keys: ConfigKeys, hidden: int, heads: int, usual: int | None = None) -> int:
    given = keys.optional("head_dim") or usual
    if given is None and hidden > 1 and hidden % heads:  # 1 stands for a number that is wrong itself
        keys.refuse("num_attention_heads", f"a divisor of the hidden size {hidden:,}, where no head_dim is given")
    return given or hidden // heads


def _key_heads(keys: ConfigKeys, heads: int) -> int:
    """Give how many heads keys and values have: as many queries share each."""
    found = keys.integer("num_key_value_heads", default=heads)
    if heads > 1 and heads % found:
        keys.refuse("num_key_value_heads", f"a divisor of the {heads:,} heads of attention")
    return found


def split(
    keys: ConfigKeys,
    *,
    qkv_bias: Bias = ATTENTION_BIAS,
    o_bias: Bias = ATTENTION_BIAS,
    qk_norm: str = "none",
    qk_norm_key: str | None = None,
    qk_norm_values: int = 1,
    head_width: int | None = None,
    output: str = "o_proj",
    query_gate: bool = False,
    scores: Literal["plain", "capped", "sinks"] = "plain",
    joined: bool = False,
    even: bool = False,
) -> Attention:
    """Separate q, k, v and output projections; `qk_norm` is `none`, `head` (one head wide) or `width` (all heads).

    `even`: the heads share the width, whatever config.json says of theirs.
    """
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    width = hidden // heads if even else _head_width(keys, hidden, heads, head_width)
    query, key = heads * width, _key_heads(keys, heads) * width
    normed = qk_norm != "none" and (qk_norm_key is None or keys.flag(qk_norm_key))
    norms = (2 * width if qk_norm == "head" else query + key) if normed else 0
    bias = has_bias(keys, qkv_bias)
    return Attention(
        linears=_linears(
            "self_attn",
            ("q_proj", hidden, query * (2 if query_gate else 1), bias),
            ("k_proj", hidden, key, bias),
            ("v_proj", hidden, key, bias),
            (output, query, hidden, has_bias(keys, o_bias)),
        ),
        heads=heads,
        query_width=query,
        key_width=key,
        value_width=key,
        qk_norm=normed,
        normed_heads=normed and qk_norm == "head",
        scores=scores,
        joined=joined,
        narrow_softmax=scores == "sinks",
        other_parameters=norms * qk_norm_values + (heads if scores == "sinks" else 0),
    )


def fused(
    keys: ConfigKeys,
    *,
    module: str,
    inward: str,
    outward: str,
    bias: Bias = False,
    o_bias: Bias | None = None,
    outward_first: bool = False,
    grouped: bool = False,
    joined: bool = False,
    narrow_softmax: bool = False,
    even: bool = False,
) -> Attention:
    """One projection for queries, keys and values together.

    `outward_first` is the order of the modules; `grouped` lets several queries share a key; `even`: see `split`.
    """
    hidden = keys.integer("hidden_size", "n_embd")
    heads = keys.integer("num_attention_heads", "n_head")
    width = hidden // heads if even else _head_width(keys, hidden, heads)
    key_heads = _key_heads(keys, heads) if grouped else heads
    query, key = heads * width, key_heads * width
    parts = [
        (inward, hidden, query + 2 * key, has_bias(keys, bias)),
        (outward, query, hidden, has_bias(keys, bias if o_bias is None else o_bias)),
    ]
    return Attention(
        linears=_linears(module, *(reversed(parts) if outward_first else parts)),
        heads=heads,
        query_width=query,
        key_width=key,
        value_width=key,
        fused=True,
        sliced=grouped,
        joined=joined,
        narrow_softmax=narrow_softmax,
        output_index=0 if outward_first else -1,
    )


def falcon(keys: ConfigKeys) -> Attention:
    """Falcon: one key head for all queries, or groups in the newer layout."""
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    width = hidden // heads
    grouped = keys.integer("num_kv_heads", default=heads)
    one = keys.flag("multi_query", True) and not keys.flag("new_decoder_architecture")
    key = (1 if one else grouped) * width
    bias = keys.flag("bias")
    return Attention(
        linears=_linears(
            "self_attention", ("query_key_value", hidden, hidden + 2 * key, bias), ("dense", hidden, hidden, bias)
        ),
        heads=heads,
        query_width=hidden,
        key_width=key,
        value_width=key,
        fused=True,
        sliced=True,
    )


def one_key(keys: ConfigKeys) -> Attention:
    """gpt_bigcode: one key head for all queries, or one each; positions are learned, so that nothing is turned."""
    hidden, heads = keys.integer("hidden_size", "n_embd"), keys.integer("num_attention_heads", "n_head")
    key = hidden // heads if keys.flag("multi_query", True) else hidden
    return Attention(
        linears=_linears("attn", ("c_attn", hidden, hidden + 2 * key, True), ("c_proj", hidden, hidden, True)),
        heads=heads,
        query_width=hidden,
        key_width=key,
        value_width=key,
        fused=True,
    )


def latent(keys: ConfigKeys) -> Attention:
    """Multi-head latent attention: queries and keys pass through narrow projections (DeepSeek-V2, arXiv 2405.04434)."""
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    plain, rotary = keys.integer("qk_nope_head_dim"), keys.integer("qk_rope_head_dim")
    query, value = heads * (plain + rotary), heads * keys.integer("v_head_dim")
    narrow, bias = keys.integer("kv_lora_rank"), keys.flag("attention_bias")
    query_rank = keys.optional("q_lora_rank")
    ways_in: tuple[tuple[str, int, int, bool], ...] = (("q_proj", hidden, query, False),)
    if query_rank:
        ways_in = (("q_a_proj", hidden, query_rank, bias), ("q_b_proj", query_rank, query, False))
    return Attention(
        linears=_linears(
            "self_attn",
            *ways_in,
            ("kv_a_proj_with_mqa", hidden, narrow + rotary, bias),
            ("kv_b_proj", narrow, heads * plain + value, False),
            ("o_proj", value, hidden, bias),
        ),
        heads=heads,
        query_width=query,
        key_width=query,
        value_width=value,
        kind="latent",
        other_parameters=(query_rank or 0) + narrow,
    )


def gated_delta(keys: ConfigKeys, *, fused_in: bool) -> Attention:
    """Linear attention with a gated delta rule (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 lay it out."""
    hidden, heads = keys.integer("hidden_size"), keys.integer("linear_num_value_heads")
    key = keys.integer("linear_num_key_heads") * keys.integer("linear_key_head_dim")
    value_head = keys.integer("linear_value_head_dim")
    value, mixed = heads * value_head, 2 * key + heads * value_head
    out = ("out_proj", value, hidden, False)
    if fused_in:
        parts = [("in_proj_qkvz", hidden, mixed + value, False), ("in_proj_ba", hidden, 2 * heads, False), out]
    else:
        parts = [out, ("in_proj_qkv", hidden, mixed, False), ("in_proj_z", hidden, value, False)]
        parts += [("in_proj_b", hidden, heads, False), ("in_proj_a", hidden, heads, False)]
    convolution = mixed * keys.integer("linear_conv_kernel_dim")
    return Attention(
        linears=_linears("linear_attn", *parts),
        heads=heads,
        query_width=key,
        key_width=key,
        value_width=value,
        kind="gated_delta",
        fused=fused_in,
        other_parameters=convolution + 2 * heads + value_head,
        output_index=-1 if fused_in else 0,
    )

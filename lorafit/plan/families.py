"""The decoder families of transformers, by `model_type`: how each lays out a layer.

Read from the modelling code of transformers 5; a test builds the real models on the meta device and compares the name
and size of every linear, and the number of parameters.
"""

from functools import partial

from lorafit.plan import attention, mlp
from lorafit.plan.config_keys import ConfigKeys
from lorafit.plan.family import (
    Family,
    OwnDropout,
    after_dense,
    every_layer,
    interleaved,
    linear_attention,
    no_layer,
    stepped,
)
from lorafit.plan.mlp import SharedExpert
from lorafit.plan.windows import Sliding


def _one_norm(keys: ConfigKeys) -> int:
    del keys
    return 1


def _falcon_norms(keys: ConfigKeys) -> int:
    return keys.integer("num_ln_in_parallel_attn", default=2 if keys.flag("new_decoder_architecture") else 1)


_LLAMA = Family(mlp=partial(mlp.gated, bias=("mlp_bias", False)))
_FLAGGED = Sliding(usual=4096, flag="use_sliding_window")
_MISTRAL = Family(attention=partial(attention.split, qkv_bias=False, o_bias=False), sliding=Sliding(usual=4096))
_QWEN2 = Family(attention=partial(attention.split, qkv_bias=True, o_bias=False), sliding=_FLAGGED)
_QWEN3 = Family(attention=partial(attention.split, qk_norm="head", head_width=128), sliding=_FLAGGED)
_GEMMA = Family(attention=partial(attention.split, head_width=256), norm="wide", tied=True)
_GEMMA2 = _GEMMA._replace(
    attention=partial(attention.split, head_width=256, scores="capped"),
    norms=4,
    order="sandwich",
    capped_logits=True,
)
_WIDE_NORMED = Family(attention=partial(attention.split, qk_norm="width"))
_OLMO2 = _WIDE_NORMED._replace(norm="wide", order="post", wide_positions=True)
_GLM = Family(
    attention=partial(attention.split, qkv_bias=("attention_bias", True), o_bias=False, joined=True),
    mlp=mlp.gated_fused,
    turned_share=("partial_rotary_factor", 0.5),
    own_positions=True,
)
_LAYER_NORM = Family(norm="layer", norm_values=2)
_COHERE = Family(norm="centred", norms=1, order="parallel", tied=True, scaled_logits=True)

_QWEN_EXPERTS = partial(mlp.experts, count=("num_experts", "num_local_experts"))
_QWEN_SHARED = partial(
    _QWEN_EXPERTS, shared=SharedExpert("shared_expert", "shared_expert_intermediate_size", gate=True)
)
_WIDE_EXPERTS = partial(mlp.experts, count=("num_local_experts", "num_experts"), width="intermediate_size")
_FLOAT32_EXPERTS = partial(_WIDE_EXPERTS, float32_shares=True)
_DEEPSEEK_EXPERTS = partial(
    mlp.experts,
    count=("n_routed_experts",),
    float32_shares=True,
    sigmoid_shares=True,
    shared=SharedExpert("shared_experts", "moe_intermediate_size", times="n_shared_experts"),
)
_QWEN3_NEXT = Family(
    norm="wide",
    attention=partial(attention.split, qk_norm="head", head_width=256, query_gate=True, joined=True),
    other_attention=partial(attention.gated_delta, fused_in=True),
    other_attention_layers=linear_attention,
    sparse_mlp=_QWEN_SHARED,
    sparse_layers=stepped,
    turned_share=("partial_rotary_factor", 0.25),
)
_QWEN3_5_MOE = _QWEN3_NEXT._replace(
    other_attention=partial(attention.gated_delta, fused_in=False), sparse_layers=every_layer
)

_SHARED_LOSS = (4, 49)  # version from which these families too have the loss of all others
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "smollm3": _LLAMA,
    "granite": _LLAMA._replace(scaled_branches=True, scaled_embeddings=True, scaled_logits=True),
    "mistral": _MISTRAL,
    "ministral3": _MISTRAL._replace(sliding=Sliding()),
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA._replace(
        norms=4,
        order="sandwich",
        attention=partial(attention.split, qk_norm="head", head_width=256),
        position_tables=2,  # of layers that see a window and of those that see all
        sliding=Sliding(usual=4096, full_every=6),
    ),
    "olmo": Family(norm="layer", norm_values=0, wide_positions=True),
    "olmo2": _OLMO2,
    "olmo3": _OLMO2._replace(position_tables=2, sliding=Sliding(usual=4096, full_every=4)),
    "glm": _GLM,
    "glm4": _GLM._replace(norms=4, order="sandwich"),
    "phi3": Family(
        attention=partial(
            attention.fused,
            module="self_attn",
            inward="qkv_proj",
            outward="o_proj",
            outward_first=True,
            grouped=True,
            joined=True,
        ),
        mlp=mlp.gated_fused,
        dropout=OwnDropout(residual="resid_pdrop"),
        sliding=Sliding(),
        turned_share=("partial_rotary_factor", 1.0),
    ),
    "phi": _LAYER_NORM._replace(
        attention=partial(
            attention.split,
            qkv_bias=True,
            o_bias=True,
            output="dense",
            qk_norm="head",
            qk_norm_key="qk_layernorm",
            qk_norm_values=2,
            joined=True,
        ),
        mlp=partial(mlp.plain, up="fc1", down="fc2", bias=True, widths=("intermediate_size",), composed=True),
        norms=1,
        order="parallel",
        head_bias=True,
        dropout=OwnDropout(residual="resid_pdrop", embedding="embd_pdrop"),
        turned_share=("partial_rotary_factor", 0.5),
    ),
    "stablelm": _LAYER_NORM._replace(
        attention=partial(
            attention.split,
            qkv_bias=("use_qkv_bias", False),
            o_bias=False,
            qk_norm="width",
            qk_norm_key="qk_layernorm",
            joined=True,
            even=True,
        ),
        parallel_key=("use_parallel_residual", False),
        parallel_norms=_one_norm,
        turned_share=("partial_rotary_factor", 0.25),
    ),
    "starcoder2": _LAYER_NORM._replace(
        attention=partial(attention.split, qkv_bias=("use_bias", True), o_bias=("use_bias", True)),
        mlp=partial(mlp.plain, up="c_fc", down="c_proj", bias=("use_bias", True), widths=("intermediate_size",)),
        tied=True,
        dropout=OwnDropout(residual="residual_dropout", embedding="embedding_dropout"),
        sliding=Sliding(),
    ),
    "cohere": _COHERE._replace(attention=partial(attention.split, qk_norm="width", qk_norm_key="use_qk_norm")),
    "cohere2": _COHERE._replace(sliding=Sliding(usual=4096, full_every=4)),
    "gpt_neox": _LAYER_NORM._replace(
        attention=partial(
            attention.fused,
            module="attention",
            inward="query_key_value",
            outward="dense",
            bias=("attention_bias", True),
            joined=True,
            even=True,
        ),
        mlp=partial(mlp.plain, up="dense_h_to_4h", down="dense_4h_to_h", bias=True, widths=("intermediate_size",)),
        parallel_key=("use_parallel_residual", True),
        prefix="gpt_neox.layers",
        turned_share=("rotary_pct", 0.25),
        dropout=OwnDropout(residual="hidden_dropout", embedding="hidden_dropout"),
        narrow_loss_before=_SHARED_LOSS,
    ),
    "falcon": _LAYER_NORM._replace(
        attention=attention.falcon,
        mlp=partial(
            mlp.plain, up="dense_h_to_4h", down="dense_4h_to_h", bias=("bias", False), widths=("ffn_hidden_size",)
        ),
        parallel_key=("parallel_attn", True),
        parallel_norms=_falcon_norms,
        tied=True,
        prefix="transformer.h",
        dropout=OwnDropout(residual="hidden_dropout"),
        narrow_loss_before=_SHARED_LOSS,
    ),
    "gpt_bigcode": _LAYER_NORM._replace(
        attention=attention.one_key,
        mlp=partial(mlp.plain, up="c_fc", down="c_proj", bias=True, widths=("n_inner",)),
        tied=True,
        holds_mixed=True,
        prefix="transformer.h",
        positions="n_positions",
        mask=True,
        dropout=OwnDropout("attn_pdrop", "resid_pdrop", "embd_pdrop", usual=0.1),
        narrow_loss_before=_SHARED_LOSS,
    ),
    "gpt2": _LAYER_NORM._replace(
        attention=partial(
            attention.fused, module="attn", inward="c_attn", outward="c_proj", bias=True, narrow_softmax=True, even=True
        ),
        mlp=partial(mlp.plain, up="c_fc", down="c_proj", bias=True, widths=("n_inner",), composed=True),
        tied=True,
        holds_mixed=True,
        prefix="transformer.h",
        positions="n_positions",
        dropout=OwnDropout("attn_pdrop", "resid_pdrop", "embd_pdrop", usual=0.1),
        narrow_loss_before=_SHARED_LOSS,
    ),
    "mixtral": _MISTRAL._replace(sparse_mlp=_FLOAT32_EXPERTS, sparse_layers=every_layer, sliding=Sliding()),
    "olmoe": _WIDE_NORMED._replace(sparse_mlp=_WIDE_EXPERTS, sparse_layers=every_layer),
    "minimax_m2": _WIDE_NORMED._replace(
        attention=partial(attention.split, qkv_bias=False, o_bias=False, qk_norm="width", joined=True),
        sparse_mlp=_FLOAT32_EXPERTS,
        sparse_layers=every_layer,
    ),
    "phimoe": _LAYER_NORM._replace(
        sparse_mlp=partial(_WIDE_EXPERTS, router="router"),
        sparse_layers=every_layer,
        head_bias=("lm_head_bias", False),
    ),
    "gpt_oss": Family(
        norm="wide",
        attention=partial(
            attention.split, qkv_bias=("attention_bias", True), o_bias=("attention_bias", True), scores="sinks"
        ),
        sparse_mlp=partial(_WIDE_EXPERTS, biased=True),
        sparse_layers=every_layer,
    ),
    "qwen2_moe": _QWEN2._replace(sparse_mlp=_QWEN_SHARED, sparse_layers=stepped),
    "qwen3_moe": Family(
        attention=partial(attention.split, qk_norm="head"), sparse_mlp=_QWEN_EXPERTS, sparse_layers=stepped
    ),
    "qwen3_next": _QWEN3_NEXT,
    "qwen3_5_text": _QWEN3_5_MOE._replace(sparse_mlp=None, sparse_layers=no_layer),
    "qwen3_5_moe_text": _QWEN3_5_MOE,
    "glm4_moe": Family(
        attention=partial(attention.split, o_bias=False, qk_norm="head", qk_norm_key="use_qk_norm", joined=True),
        sparse_mlp=_DEEPSEEK_EXPERTS,
        sparse_layers=partial(after_dense, dense=1),
        turned_share=("partial_rotary_factor", 0.5),
    ),
    "glm4_moe_lite": Family(
        attention=attention.latent, sparse_mlp=_DEEPSEEK_EXPERTS, sparse_layers=partial(after_dense, dense=1)
    ),
    "deepseek_v2": Family(
        attention=attention.latent,
        mlp=partial(mlp.gated, bias=("mlp_bias", False)),
        sparse_mlp=partial(_DEEPSEEK_EXPERTS, sigmoid_shares=False),
        sparse_layers=partial(after_dense, dense=0),
    ),
    "deepseek_v3": Family(
        attention=attention.latent, sparse_mlp=_DEEPSEEK_EXPERTS, sparse_layers=partial(after_dense, dense=3)
    ),
    "llama4_text": Family(
        norm="wide",
        mlp=partial(mlp.gated, module="feed_forward", width="intermediate_size_mlp"),
        sparse_mlp=partial(
            _WIDE_EXPERTS,
            module="feed_forward",
            shared=SharedExpert("shared_expert", "intermediate_size"),
            router="router",
        ),
        sparse_layers=interleaved,
    ),
    "mimo": _QWEN2._replace(remote_code=True),
    "qwen": Family(
        attention=partial(attention.fused, module="attn", inward="c_attn", outward="c_proj", bias=True, o_bias=False),
        mlp=mlp.halves,
        prefix="transformer.h",
        remote_code=True,
    ),
    "baichuan": Family(
        attention=partial(attention.fused, module="self_attn", inward="W_pack", outward="o_proj"), remote_code=True
    ),
}

# a model that also sees or hears keeps its text part under `text_config`, where its type may be left out
TEXT_TYPES = {
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}

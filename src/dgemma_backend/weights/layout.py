"""The tensors of a checkpoint in full precision: name and shape.

The text model is stored once, under `model.decoder.`; the encoder shares it. Only each layer's
`layer_scalar`, a buffer, is stored a second time for the encoder, with the same value. The vision
tower is known, and must be complete, but is not loaded yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dgemma_backend.config import ModelConfig

DECODER = "model.decoder."
ENCODER = "model.encoder."
ENCODER_TEXT = f"{ENCODER}language_model."

Shape = tuple[int, ...]
#: Matrices that may be quantised: kernels take them, and quality bears it.
_QUANTIZABLE = re.compile(
    r"layers\.\d+\.(experts\.(gate_up|down)_proj|(self_attn|mlp)\.[a-z]+_proj\.weight)"
    r"|self_conditioning\.[a-z]+_proj\.weight"
)


def quantizable_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Those of the text model's tensors that may be quantised: not embedding, router and norms."""
    return {
        name: shape for name, shape in text_shapes(config).items() if _QUANTIZABLE.fullmatch(name)
    }


def text_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The text model's tensors, by their names in the model. A linear layer is (out, in)."""
    hidden, dense = config.hidden_size, config.intermediate_size
    shapes: dict[str, Shape] = {"embed_tokens.weight": (config.vocab_size, hidden)}
    for index, kind in enumerate(config.layer_types):
        layer = _layer_shapes(config, full=kind == "full_attention")
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes | {
        "norm.weight": (hidden,),
        "self_conditioning.pre_norm.weight": (hidden,),
        "self_conditioning.gate_proj.weight": (dense, hidden),
        "self_conditioning.up_proj.weight": (dense, hidden),
        "self_conditioning.down_proj.weight": (hidden, dense),
    }


def _layer_shapes(config: ModelConfig, *, full: bool) -> dict[str, Shape]:
    hidden, dense = config.hidden_size, config.intermediate_size
    experts, narrow = config.num_experts, config.moe_intermediate_size
    head = config.global_head_dim if full else config.head_dim
    query = config.num_attention_heads * head
    key = head * (config.num_global_key_value_heads if full else config.num_key_value_heads)
    norms = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "pre_feedforward_layernorm_2",
        "post_feedforward_layernorm",
        "post_feedforward_layernorm_1",
        "post_feedforward_layernorm_2",
    )
    shapes: dict[str, Shape] = {f"{name}.weight": (hidden,) for name in norms}
    shapes |= {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.weight": (dense, hidden),
        "mlp.up_proj.weight": (dense, hidden),
        "mlp.down_proj.weight": (hidden, dense),
        "router.proj.weight": (experts, hidden),
        "router.scale": (hidden,),
        "router.per_expert_scale": (experts,),
        "experts.gate_up_proj": (experts, 2 * narrow, hidden),
        "experts.down_proj": (experts, hidden, narrow),
        "layer_scalar": (1,),
    }
    if not full:  # full layers use their keys as values
        shapes["self_attn.v_proj.weight"] = (key, hidden)
    return shapes


def vision_shapes(vision: Mapping[str, int], text_hidden: int) -> dict[str, Shape]:
    """The vision tower's tensors, by their names below ENCODER."""
    hidden, wide, head = vision["hidden_size"], vision["intermediate_size"], vision["head_dim"]
    query, key = vision["num_attention_heads"] * head, vision["num_key_value_heads"] * head
    pixels = 3 * vision["patch_size"] ** 2
    shapes: dict[str, Shape] = {
        "embed_vision.embedding_projection.weight": (text_hidden, hidden),
        "vision_tower.patch_embedder.input_proj.weight": (hidden, pixels),
        "vision_tower.patch_embedder.position_embedding_table": (
            2,
            vision["position_embedding_size"],
            hidden,
        ),
    }
    layer: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "pre_feedforward_layernorm.weight": (hidden,),
        "post_feedforward_layernorm.weight": (hidden,),
        "self_attn.q_proj.linear.weight": (query, hidden),
        "self_attn.k_proj.linear.weight": (key, hidden),
        "self_attn.v_proj.linear.weight": (key, hidden),
        "self_attn.o_proj.linear.weight": (hidden, query),
        "self_attn.q_norm.weight": (head,),
        "self_attn.k_norm.weight": (head,),
        "mlp.gate_proj.linear.weight": (wide, hidden),
        "mlp.up_proj.linear.weight": (wide, hidden),
        "mlp.down_proj.linear.weight": (hidden, wide),
    }
    for index in range(vision["num_hidden_layers"]):
        prefix = f"vision_tower.encoder.layers.{index}."
        shapes |= {prefix + name: shape for name, shape in layer.items()}
    if vision["standardize"]:
        shapes |= {"vision_tower.std_bias": (hidden,), "vision_tower.std_scale": (hidden,)}
    return shapes

"""The two JSON files of a published checkpoint: where each fact stands, and which keys are known.

`read_model` and `read_decoding` turn a file's content into the fields of ModelConfig and
DecodingDefaults, `write_model` and `write_decoding` turn the fields back. Types and presence are
checked here, ranges by the dataclasses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dgemma_backend.config.quantization import read_quantization
from dgemma_backend.config.reader import Facts

ARCHITECTURE = "DiffusionGemmaForBlockDiffusion"
MODEL_TYPE = "diffusion_gemma"
SAMPLER = "EntropyBoundSamplerConfig"

ROOT_INTEGERS = ("canvas_length", "image_token_id")
TEXT_INTEGERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "top_k_experts",
    "moe_intermediate_size",
    "sliding_window",
    "max_position_embeddings",
    "pad_token_id",
    "bos_token_id",
)
FULL_LAYER_INTEGERS = ("num_global_key_value_heads", "global_head_dim")
VISION_INTEGERS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "patch_size",
    "pooling_kernel_size",
    "position_embedding_size",
)

# Keys that transformers writes and that change nothing here.
_HOUSEKEEPING = {
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",  # training only
    "chunk_size_feed_forward",
    "dtype",  # of the stored weights, which say so themselves
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_ROOT_WITHOUT_EFFECT = _HOUSEKEEPING | {
    "boi_token_id",
    "eoi_token_id",
    "eos_token_id",  # an incomplete list; generation_config.json has the stop ids
    "vision_soft_tokens_per_image",
}
_TEXT_WITHOUT_EFFECT = _HOUSEKEEPING | {"eos_token_id"}
_VISION_WITHOUT_EFFECT = _HOUSEKEEPING | {  # the tower is known, not run
    "default_output_length",
    "global_head_dim",
    "hidden_activation",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
}
_GENERATION_WITHOUT_EFFECT = {
    "_commit_hash",
    "_from_model_config",
    "bos_token_id",
    "max_length",
    "max_new_tokens",  # one canvas; how long an answer may be is the request's to say
    "return_dict_in_generate",
    "transformers_version",
}


def read_model(facts: Facts) -> dict[str, Any]:
    """Fields of ModelConfig out of a config.json. Raises ConfigError."""
    facts.pin("model_type", MODEL_TYPE)
    facts.pin("architectures", [ARCHITECTURE])
    facts.pin("tie_word_embeddings", True)
    values = {name: facts.integer(name) for name in ROOT_INTEGERS}
    values |= _read_text(facts.section("text_config"))
    values["vision"] = None
    if facts.has("vision_config") and facts.take("vision_config") is not None:
        values["vision"] = _read_vision(facts.section("vision_config"))
    values["quantization"] = None
    if facts.has("quantization_config") and facts.take("quantization_config") is not None:
        values["quantization"] = read_quantization(facts.section("quantization_config"))
    facts.finish(_ROOT_WITHOUT_EFFECT)
    values["canvas_prefix_window"] = values["sliding_window"]
    return values


def _read_text(text: Facts) -> dict[str, Any]:
    text.pin("model_type", f"{MODEL_TYPE}_text")
    text.pin("hidden_activation", "gelu_pytorch_tanh")
    text.pin("attention_bias", False)
    text.pin("tie_word_embeddings", True, required=False)
    text.pin("use_bidirectional_attention", "vision", None, required=False)
    values: dict[str, Any] = {name: text.integer(name) for name in TEXT_INTEGERS}
    values["layer_types"] = _read_layer_types(text)
    values["rms_norm_eps"] = text.number("rms_norm_eps")
    if text.has("per_layer_config"):
        values |= _read_overrides(text, values)
    else:
        values |= {name: text.integer(name) for name in FULL_LAYER_INTEGERS}
        values["final_logit_softcapping"] = text.number("final_logit_softcapping")
    rope = text.section("rope_parameters")
    sliding, full = rope.section("sliding_attention"), rope.section("full_attention")
    sliding.pin("rope_type", "default")
    full.pin("rope_type", "proportional")
    values["sliding_rope_theta"] = sliding.number("rope_theta")
    values["full_rope_theta"] = full.number("rope_theta")
    values["full_partial_rotary_factor"] = full.number("partial_rotary_factor")
    for each in (sliding, full, rope):
        each.finish()
    text.finish(_TEXT_WITHOUT_EFFECT)
    return values


def _read_layer_types(text: Facts) -> tuple[Any, ...]:
    kinds = text.take("layer_types")
    if not isinstance(kinds, list | tuple) or not kinds:
        text.wrong("layer_types", "a list with the type of each layer")
    if kinds[-1] != "full_attention":  # transformers would silently run it as a full layer
        text.wrong("layer_types", "a list that ends with 'full_attention'")
    return tuple(kinds)


def _read_overrides(text: Facts, values: Mapping[str, Any]) -> dict[str, Any]:
    """The layout that transformers saves: what a full layer has of its own, layer by layer.

    A value equal to the sliding layers' is left out there, and so is the softcap when it is 30.
    """
    kinds = values["layer_types"]
    layers = text.section("per_layer_config")
    found = {}
    for key in layers.names():
        index = int(key) if key.isascii() and key.isdigit() and len(key) < 5 else -1
        if not 0 <= index < len(kinds) or kinds[index] != "full_attention" or index in found:
            layers.wrong(key, "said of one full-attention layer, by its number")
        layer = layers.section(key)
        found[index] = {
            name: layer.integer(name) if layer.has(name) else values[name]
            for name in ("num_key_value_heads", "head_dim")
        }
        layer.finish()
    same = {name: values[name] for name in ("num_key_value_heads", "head_dim")}
    wide = [found.get(i, same) for i, kind in enumerate(kinds) if kind == "full_attention"]
    if any(each != wide[0] for each in wide):
        text.wrong("per_layer_config", "the same for every full-attention layer")
    softcap = "final_logit_softcapping"
    return {
        "num_global_key_value_heads": wide[0]["num_key_value_heads"],
        "global_head_dim": wide[0]["head_dim"],
        softcap: text.number(softcap) if text.has(softcap) else 30.0,
    }


def _read_vision(vision: Facts) -> dict[str, int]:
    vision.pin("model_type", "gemma4_vision", required=False)
    vision.pin("attention_bias", False, required=False)
    vision.pin("use_clipped_linears", False)
    vision.pin("standardize", True, False)
    values = {name: vision.integer(name) for name in VISION_INTEGERS}
    values["standardize"] = int(vision.take("standardize"))
    vision.finish(_VISION_WITHOUT_EFFECT)
    return values


def write_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json for the fields of a ModelConfig, in the published layout."""
    vision = values["vision"]
    text = {name: values[name] for name in (*TEXT_INTEGERS, *FULL_LAYER_INTEGERS)} | {
        "model_type": f"{MODEL_TYPE}_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": None if vision is None else "vision",
        "layer_types": list(values["layer_types"]),
        "rms_norm_eps": values["rms_norm_eps"],
        "final_logit_softcapping": values["final_logit_softcapping"],
        "rope_parameters": {
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": values["sliding_rope_theta"],
            },
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": values["full_rope_theta"],
                "partial_rotary_factor": values["full_partial_rotary_factor"],
            },
        },
    }
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "tie_word_embeddings": True,
        **{name: values[name] for name in ROOT_INTEGERS},
        "text_config": text,
    }
    if vision is not None:
        config["vision_config"] = {
            **vision,
            "model_type": "gemma4_vision",
            "attention_bias": False,
            "standardize": bool(vision["standardize"]),
            "use_clipped_linears": False,
        }
    if values["quantization"] is not None:
        config["quantization_config"] = values["quantization"].to_dict()
    return config


def read_decoding(facts: Facts) -> dict[str, Any]:
    """Fields of DecodingDefaults out of a generation_config.json. Raises ConfigError."""
    sampler = facts.section("sampler_config")
    sampler.pin("_cls_name", SAMPLER)
    values: dict[str, Any] = {"entropy_bound": sampler.number("entropy_bound")}
    sampler.finish()
    for name in ("max_denoising_steps", "stability_threshold", "pad_token_id"):
        values[name] = facts.integer(name)
    for name in ("t_min", "t_max", "confidence_threshold"):
        values[name] = facts.number(name)
    stops = facts.take("eos_token_id")
    values["stop_token_ids"] = tuple(stops) if isinstance(stops, list | tuple) else (stops,)
    facts.finish(_GENERATION_WITHOUT_EFFECT)
    return values


def write_decoding(values: Mapping[str, Any]) -> dict[str, Any]:
    """The generation_config.json for the fields of a DecodingDefaults."""
    config = dict(values)
    config["sampler_config"] = {"_cls_name": SAMPLER, "entropy_bound": config.pop("entropy_bound")}
    config["eos_token_id"] = list(config.pop("stop_token_ids"))
    return config

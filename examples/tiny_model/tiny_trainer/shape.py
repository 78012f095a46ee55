"""The shape of the tiny model, and how its weights begin."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dgemma_backend.config import DecodingDefaults, ModelConfig
from dgemma_backend.model import DiffusionGemma
from tiny_trainer.tokenizer import CONTROL_TOKENS
from tiny_trainer.training_kernels import training_kernels

VOCABULARY = 1280
_ID = {name: place for place, name in enumerate(CONTROL_TOKENS)}

CONFIG: dict[str, Any] = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "model_type": "diffusion_gemma",
    "dtype": "bfloat16",
    "canvas_length": 32,
    "eos_token_id": [_ID["<eos>"], _ID["<turn|>"]],
    "image_token_id": _ID["<|image|>"],
    "boi_token_id": _ID["<|image>"],
    "eoi_token_id": _ID["<image|>"],
    "vision_soft_tokens_per_image": 280,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "text_config": {
        "model_type": "diffusion_gemma_text",
        "dtype": "bfloat16",
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_global_key_value_heads": 2,
        "global_head_dim": 64,
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 64,
        "sliding_window": 64,
        # Looking a fact up takes two hops: the asked subject in the text, then what is said of it.
        # Only full layers reach the whole prefix, so two of them stand before each hop is read.
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "full_attention",
        ],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 1000000.0,
                "partial_rotary_factor": 0.25,
            },
        },
        "final_logit_softcapping": 30.0,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 1024,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_bidirectional_attention": "vision",
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": _ID["<bos>"],
        "eos_token_id": _ID["<eos>"],
        "pad_token_id": _ID["<pad>"],
    },
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 8,
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "position_embedding_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "rms_norm_eps": 1e-6,
        "standardize": True,
        "use_clipped_linears": False,
        "attention_bias": False,
        "default_output_length": 280,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 1024,
    },
}

GENERATION_CONFIG: dict[str, Any] = {
    "max_denoising_steps": 48,
    "t_min": 0.4,
    "t_max": 0.8,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
    "confidence_threshold": 0.005,
    "stability_threshold": 1,
    "eos_token_id": [_ID["<eos>"], _ID["<turn|>"], _ID["<|tool_response>"]],
    "pad_token_id": _ID["<pad>"],
    "max_new_tokens": 256,
}

# Below one, as in the published weights, so that a forward pass that forgets them is caught.
LAYER_SCALARS = (0.98, 0.97, 0.96, 0.95, 0.94, 0.93)


def model_config() -> ModelConfig:
    """CONFIG as the package reads it."""
    return ModelConfig.from_dict(CONFIG, where="the tiny model's configuration")


def decoding_defaults() -> DecodingDefaults:
    """GENERATION_CONFIG as the package reads it."""
    return DecodingDefaults.from_dict(GENERATION_CONFIG)


def new_model(seed: int) -> DiffusionGemma:
    """An untrained model in float32.

    Queries and keys begin at `head_dim ** -0.25` each because attention is not scaled: with
    ones it would begin very peaked. The norms after each branch begin below one, so that the
    residual stream grows slowly.
    """
    generator = torch.Generator().manual_seed(seed)
    model = DiffusionGemma(model_config(), training_kernels()).float()
    for name, weight in model.named_parameters():
        with torch.no_grad():
            _begin(name, weight, generator)
    for layer, scalar in zip(model.layers, LAYER_SCALARS, strict=True):
        assert isinstance(layer.layer_scalar, torch.Tensor)
        layer.layer_scalar.fill_(scalar)
    return model


def _begin(name: str, weight: nn.Parameter, generator: torch.Generator) -> None:
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        weight.fill_(weight.shape[0] ** -0.25)
    elif "post_" in name and name.endswith("norm.weight"):
        weight.fill_(0.71)
    elif weight.dim() == 1:
        weight.fill_(1.0)
    elif name == "embed_tokens.weight":
        weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
    else:
        weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)


def tied_constants(model: nn.Module) -> list[nn.Parameter]:
    """Query and key norm weights: one number each, repeated, as in the published checkpoint."""
    return [
        weight
        for name, weight in model.named_parameters()
        if name.endswith(("q_norm.weight", "k_norm.weight"))
    ]

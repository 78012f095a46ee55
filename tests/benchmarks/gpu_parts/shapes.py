"""What is measured: the real model's sizes, and toy ones that an interpreter can run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dgemma_backend.config import ModelConfig
from dgemma_backend.tiny import CHECKPOINT

FORMATS = ("bf16", "fp8", "w8a8", "int4")
"""Of the weights: experts, attention and dense MLP. `w8a8` also rounds activations to FP8."""
KERNEL_FORMATS = (*FORMATS, "fp4")
"""What kernels multiply; of a model in NVFP4 no step is measured."""

_REAL = {
    "vocab_size": 262144,
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "num_global_key_value_heads": 2,
    "global_head_dim": 512,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
    "sliding_window": 1024,
    "max_position_embeddings": 262144,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
}
_TOY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_global_key_value_heads": 1,
    "global_head_dim": 32,
    "num_experts": 3,
    "top_k_experts": 1,
    "moe_intermediate_size": 32,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}


@dataclass(frozen=True)
class Shapes:
    """One model and the loads it is measured under."""

    facts: Mapping[str, Any]  # its config.json
    config: ModelConfig
    batches: tuple[int, ...]  # canvases in a step
    kernel_batches: tuple[int, ...]  # and those of which every kernel is measured alone
    prefixes: tuple[int, ...]  # tokens before each canvas
    prompts: tuple[int, ...]  # tokens of which the first text is asked
    steps: tuple[int, ...]  # that a canvas may take
    piece: int  # prompt tokens encoded at once, as the engine does
    repeats: int  # of a measured kernel
    turns: int  # of a measured step


def real_shapes() -> Shapes:
    """DiffusionGemma 26B-A4B."""
    facts = _facts(256, _REAL)
    return Shapes(
        facts=facts,
        config=_config(facts),
        batches=(1, 4, 16),
        kernel_batches=(1, 4, 16),
        prefixes=(1024, 8192, 32768),
        prompts=(1024, 8192),
        steps=(12, 16, 24, 48),
        piece=512,
        repeats=20,
        turns=10,
    )


def toy_shapes() -> Shapes:
    """The same architecture, so small that a step takes an interpreter a second."""
    facts = _facts(2, _TOY)
    return Shapes(
        facts=facts,
        config=_config(facts),
        batches=(1, 2),
        kernel_batches=(1,),
        prefixes=(12,),
        prompts=(12,),
        steps=(1, 2),
        piece=8,
        repeats=1,
        turns=1,
    )


def two_layers(config: ModelConfig) -> ModelConfig:
    """One layer of each kind: all kernels of the whole model at a fifteenth of its memory."""
    kinds = ("sliding_attention", "full_attention")
    return replace(config, num_hidden_layers=2, layer_types=kinds)


def _facts(canvas: int, text: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text())
    facts["canvas_length"] = canvas
    facts["text_config"] |= text
    return facts


def _config(facts: Mapping[str, Any]) -> ModelConfig:
    config = ModelConfig.from_dict(facts)
    # As transformers has it, which the whole model is compared with.
    return replace(config, canvas_prefix_window=config.sliding_window - 1)

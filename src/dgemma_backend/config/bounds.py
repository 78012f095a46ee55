"""How large a number in a checkpoint may be. Checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from dgemma_backend.config.reader import shown
from dgemma_backend.errors import ConfigError

#: Whole numbers: smallest and largest value. The published model's value stands behind each.
SIZES: Mapping[str, tuple[int, int]] = {
    "vocab_size": (2, 1 << 20),  # 262,144
    "hidden_size": (2, 1 << 16),  # 2,816
    "intermediate_size": (1, 1 << 18),  # 2,112
    "num_hidden_layers": (1, 512),  # 30
    "num_attention_heads": (1, 1024),  # 16
    "num_key_value_heads": (1, 1024),  # 8
    "head_dim": (2, 4096),  # 256
    "num_global_key_value_heads": (1, 1024),  # 2
    "global_head_dim": (2, 4096),  # 512
    "num_experts": (1, 4096),  # 128
    "top_k_experts": (1, 4096),  # 8
    "moe_intermediate_size": (1, 1 << 18),  # 704
    "sliding_window": (1, 1 << 20),  # 1,024
    "max_position_embeddings": (1, 1 << 24),  # 262,144
    "canvas_length": (1, 1024),  # 256
    "pad_token_id": (0, 1 << 20),  # 0
    "bos_token_id": (0, 1 << 20),  # 2
    "image_token_id": (0, 1 << 20),  # 258,880
    "canvas_prefix_window": (0, 1 << 20),  # 1,024
    "max_denoising_steps": (1, 256),  # 48
    "stability_threshold": (0, 256),  # 1
}
#: Numbers: smallest and largest value, and the published one. `t_max` may be 0.8, never 0.
RANGES: Mapping[str, tuple[float, float]] = {
    "sliding_rope_theta": (1.0, 1e12),  # 1e4
    "full_rope_theta": (1.0, 1e12),  # 1e6
    "full_partial_rotary_factor": (1e-4, 1.0),  # 0.25
    "final_logit_softcapping": (1e-3, 1e6),  # 30
    "rms_norm_eps": (1e-12, 0.1),  # 1e-6
    "t_min": (0.0, 100.0),  # 0.4
    "t_max": (1e-6, 100.0),  # 0.8
    "entropy_bound": (0.0, 1e6),  # 0.1 nats
    "confidence_threshold": (0.0, 1e3),  # 0.005 nats
}
#: The same for the facts of the vision tower.
VISION_SIZES: Mapping[str, tuple[int, int]] = {
    "hidden_size": (1, 1 << 16),  # 1,152
    "intermediate_size": (1, 1 << 18),  # 4,304
    "num_hidden_layers": (1, 512),  # 27
    "num_attention_heads": (1, 1024),  # 16
    "num_key_value_heads": (1, 1024),  # 16
    "head_dim": (1, 4096),  # 72
    "patch_size": (1, 1024),  # 16
    "pooling_kernel_size": (1, 64),  # 3
    "position_embedding_size": (1, 1 << 20),  # 10,240
    "standardize": (0, 1),  # 1
}


def check_fields(owner: Any, bounds: Mapping[str, tuple[float, float]], *kinds: type) -> None:
    """Raise ConfigError unless each field of `owner` that `bounds` names lies within."""
    for name in (each.name for each in fields(owner) if each.name in bounds):
        check_number(name, getattr(owner, name), bounds[name], *kinds)


def check_number(name: str, value: object, within: tuple[float, float], *kinds: type) -> None:
    """Raise ConfigError unless `value` is of one of `kinds`, no bool, and `within` the bounds."""
    low, high = within
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or not low <= value <= high:  # type: ignore[operator]  # NaN fails too
        word = "number" if float in kinds else "whole number"
        raise ConfigError(f"{name} is {shown(value)}, must be a {word} from {low} to {high}")

"""The shape of a model: config.json as a dataclass."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dgemma_backend.config.bounds import RANGES, SIZES, VISION_SIZES, check_fields, check_number
from dgemma_backend.config.layout import read_model, write_model
from dgemma_backend.config.quantization import Quantization, read_modelopt_file
from dgemma_backend.config.reader import Facts, read_json_object, shown
from dgemma_backend.errors import ConfigError

LAYER_TYPES = ("sliding_attention", "full_attention")
MODELOPT_FILE = "hf_quant_config.json"


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one DiffusionGemma, as its config.json states it.

    Raises ConfigError, naming field, value and range, for anything impossible.

    Attributes:
        intermediate_size: Width of the dense MLP of each layer, and of self-conditioning's.
        head_dim: Head width in sliding layers, `num_key_value_heads` wide in keys and values.
        global_head_dim: Head width in full layers, `num_global_key_value_heads` wide.
        layer_types: One of LAYER_TYPES per layer.
        full_partial_rotary_factor: Share of a full layer's head that is rotated.
        vision: Facts of the vision tower (the names in VISION_SIZES), None without a tower.
        canvas_prefix_window: Prefix tokens that a canvas sees in sliding layers. JAX shows
            the last `sliding_window`, which is what `from_dict` sets; transformers one fewer.
        quantization: How the stored matrices are encoded, None where none is.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_global_key_value_heads: int
    global_head_dim: int
    num_experts: int
    top_k_experts: int
    moe_intermediate_size: int
    sliding_window: int
    layer_types: tuple[str, ...]
    sliding_rope_theta: float
    full_rope_theta: float
    full_partial_rotary_factor: float
    final_logit_softcapping: float
    rms_norm_eps: float
    max_position_embeddings: int
    canvas_length: int
    pad_token_id: int
    bos_token_id: int
    image_token_id: int
    vision: Mapping[str, int] | None = field(hash=False)
    canvas_prefix_window: int
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        check_fields(self, SIZES, int)
        check_fields(self, RANGES, int, float)
        self._check_layers()
        self._check_relations()
        self._check_vision()

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `folder`/config.json, and hf_quant_config.json where there is one.

        Raises CheckpointError when there is no config.json, ConfigError for what they hold.
        """
        facts = read_json_object(folder, "config.json")
        config = cls.from_dict(facts, where=str(Path(folder) / "config.json"))
        path = Path(folder) / MODELOPT_FILE
        if not os.path.lexists(path):
            return config
        found = read_modelopt_file(Facts(read_json_object(folder, MODELOPT_FILE), str(path)))
        if config.quantization is None:
            return replace(config, quantization=found)
        if config.quantization.format != found.format:
            raise ConfigError(
                f"{path} says the weights are {found.format}, and config.json that they are "
                f"{config.quantization.format}. Remove the file that is of another checkpoint."
            )
        return config

    @classmethod
    def from_dict(cls, config: Mapping[str, object], *, where: str = "config.json") -> ModelConfig:
        """Read what a config.json holds; raises ConfigError only, and names `where` in it."""
        values = read_model(Facts(config, where))
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The config.json of this model, in the published layout; `from_dict` reads it back."""
        return write_model({each.name: getattr(self, each.name) for each in fields(self)})

    def _check_layers(self) -> None:
        kinds: Any = self.layer_types
        if not isinstance(kinds, tuple) or len(kinds) != self.num_hidden_layers:
            raise ConfigError(
                f"layer_types is {shown(kinds)}, must name a type for each of the "
                f"num_hidden_layers={self.num_hidden_layers} layers"
            )
        for kind in kinds:
            if kind not in LAYER_TYPES:
                raise ConfigError(
                    f"layer_types names {shown(kind)}, must be {' or '.join(LAYER_TYPES)}"
                )

    def _check_relations(self) -> None:
        for name in ("num_key_value_heads", "num_global_key_value_heads"):
            if self.num_attention_heads % getattr(self, name):
                raise ConfigError(
                    f"num_attention_heads={self.num_attention_heads} is no multiple of "
                    f"{name}={getattr(self, name)}"
                )
        for name in ("head_dim", "global_head_dim"):
            if getattr(self, name) % 2:  # rotary embedding turns pairs
                raise ConfigError(f"{name} is {getattr(self, name)}, must be even")
        ceilings = [
            ("top_k_experts", "num_experts", self.num_experts),
            ("canvas_length", "max_position_embeddings", self.max_position_embeddings),
            ("pad_token_id", "vocab_size - 1", self.vocab_size - 1),
            ("bos_token_id", "vocab_size - 1", self.vocab_size - 1),
        ]
        if self.vision is not None:  # without a tower no token is an image
            ceilings.append(("image_token_id", "vocab_size - 1", self.vocab_size - 1))
        for name, ceiling, most in ceilings:
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is {getattr(self, name)}, above {ceiling} = {most}")
        if self.canvas_prefix_window not in (self.sliding_window, self.sliding_window - 1):
            raise ConfigError(
                f"canvas_prefix_window is {self.canvas_prefix_window}, must be "
                f"sliding_window={self.sliding_window} or one less"
            )

    def _check_vision(self) -> None:
        vision: Any = self.vision
        if vision is None:
            return
        if not isinstance(vision, Mapping) or set(vision) != set(VISION_SIZES):
            raise ConfigError(
                f"vision is {shown(vision)}, must be None or hold just {', '.join(VISION_SIZES)}"
            )
        for name, within in VISION_SIZES.items():
            check_number(f"vision_config.{name}", vision[name], within, int)

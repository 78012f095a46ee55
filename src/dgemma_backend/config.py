"""What a checkpoint says about itself: config.json and generation_config.json.

Nothing has a default: a fact that is missing is an error, and so is one that nobody here knows.
No class is chosen and no code is run because of what a file says. Sizes are bounded before
anything is allocated. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dgemma_backend.config_layout import read_decoding, read_model, write_decoding, write_model
from dgemma_backend.config_reader import Facts, read_json_object, shown
from dgemma_backend.errors import ConfigError

LAYER_TYPES = ("sliding_attention", "full_attention")

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
MAX_STOP_TOKENS = 64


def _check(owner: Any, bounds: Mapping[str, tuple[float, float]], *kinds: type) -> None:
    """Raise ConfigError unless each field of `owner` that `bounds` names lies within."""
    for name in (each.name for each in fields(owner) if each.name in bounds):
        _check_one(name, getattr(owner, name), bounds[name], *kinds)


def _check_one(name: str, value: object, within: tuple[float, float], *kinds: type) -> None:
    low, high = within
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or not low <= value <= high:  # type: ignore[operator]  # NaN fails too
        word = "number" if float in kinds else "whole number"
        raise ConfigError(f"{name} is {shown(value)}, must be a {word} from {low} to {high}")


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

    def __post_init__(self) -> None:
        _check(self, SIZES, int)
        _check(self, RANGES, int, float)
        self._check_layers()
        self._check_relations()
        self._check_vision()

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `folder`/config.json; raises CheckpointError when there is none."""
        path = Path(folder) / "config.json"
        return cls.from_dict(read_json_object(path), where=str(path))

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
            _check_one(f"vision_config.{name}", vision[name], within, int)


@dataclass(frozen=True)
class DecodingDefaults:
    """How a checkpoint wants its canvases denoised, as its generation_config.json states it.

    Raises ConfigError, naming field, value and range, for anything impossible.

    Attributes:
        t_min: Temperature the schedule ends at.
        t_max: Temperature the schedule starts from.
        entropy_bound: In nats; uncertainty the sampler accepts in one step.
        confidence_threshold: In nats; mean entropy under which a stable canvas is finished.
        stability_threshold: For how many steps the canvas must not have changed.
        stop_token_ids: Ids that end an answer.
    """

    max_denoising_steps: int
    t_min: float
    t_max: float
    entropy_bound: float
    confidence_threshold: float
    stability_threshold: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int

    def __post_init__(self) -> None:
        _check(self, SIZES, int)
        _check(self, RANGES, int, float)
        if self.t_min > self.t_max:
            raise ConfigError(f"t_min={self.t_min} is above t_max={self.t_max}")
        stops: Any = self.stop_token_ids
        if not isinstance(stops, tuple) or not 1 <= len(stops) <= MAX_STOP_TOKENS:
            raise ConfigError(
                f"stop_token_ids is {shown(stops)}, must be 1 to {MAX_STOP_TOKENS} token ids"
            )
        for each in stops:
            if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each < 1 << 20:
                raise ConfigError(f"stop_token_ids holds {shown(each)}, which is no token id")

    @classmethod
    def from_folder(cls, folder: Path) -> DecodingDefaults:
        """Read `folder`/generation_config.json; raises CheckpointError when there is none."""
        path = Path(folder) / "generation_config.json"
        return cls.from_dict(read_json_object(path), where=str(path))

    @classmethod
    def from_dict(
        cls, config: Mapping[str, object], *, where: str = "generation_config.json"
    ) -> DecodingDefaults:
        """Read what a generation_config.json holds; raises ConfigError only."""
        values = read_decoding(Facts(config, where))
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The generation_config.json that says this; `from_dict` reads it back."""
        return write_decoding({each.name: getattr(self, each.name) for each in fields(self)})

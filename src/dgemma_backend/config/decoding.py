"""How a model wants its canvases denoised: generation_config.json as a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dgemma_backend.config.bounds import RANGES, SIZES, check_fields
from dgemma_backend.config.layout import read_decoding, write_decoding
from dgemma_backend.config.reader import Facts, read_json_object, shown
from dgemma_backend.errors import ConfigError

MAX_STOP_TOKENS = 64


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
        check_fields(self, SIZES, int)
        check_fields(self, RANGES, int, float)
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
        config = read_json_object(folder, "generation_config.json")
        return cls.from_dict(config, where=str(Path(folder) / "generation_config.json"))

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

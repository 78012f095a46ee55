"""What one request may choose. Every value is checked when the object is made.

`None` always means "as the checkpoint says". `max_denoising_steps`, `entropy_bound`,
`confidence_threshold`, `stability_threshold`, `t_min` and `t_max` are the checkpoint's own knobs,
see its generation_config.json.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from dgemma_backend.errors import SettingError, UnknownSettingError

Steering = Literal["off", "joint", "constrained"]

MAX_STOPS = 16
MAX_STOP_LENGTH = 256


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of one request.

    Raises SettingError, naming the setting, the value and the range, for anything out of range.

    Attributes:
        max_tokens: Committed tokens, reasoning included; the cut is exact.
        temperature: 1 = the checkpoint's own noise, 0 = proposals are the most probable tokens.
        top_k: Proposals come from the `top_k` most probable tokens.
        top_p: Proposals come from the smallest set of tokens with this much probability.
        seed: The same seed and request give the same answer; None draws one and reports it.
        stop: Strings that end the answer and are not part of it.
        max_denoising_steps: Cap of steps per canvas.
        entropy_bound: In nats; how much uncertainty the sampler accepts in one step.
        confidence_threshold: In nats; mean entropy under which a stable canvas is finished.
        stability_threshold: For how many steps the canvas must not have changed.
        t_min: Temperature the schedule ends at.
        t_max: Temperature the schedule starts from.
        thinking: Whether the model thinks before it answers.
        thinking_budget: Tokens of thought after which the answer is begun; goes with `thinking`.
        timeout: Seconds after which the request is given up.
        isolate: Passes of its own, so that the answer is the same bit for bit under any load. On
            CPU every request has that; on CUDA it costs speed when others run beside it.
        cache_salt: Encoded prefixes are shared only between requests with the same salt.
        steering: How a response format or a forced call acts while a canvas is denoised: "off"
            (only when it is committed), "joint" or "constrained".
        draft: Text that the first canvas starts from, in place of noise; the model may change any
            of it.
        sampler: Name of a registered sampler.
        stop_rule: Name of a registered stop rule.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    stability_threshold: int | None = None
    t_min: float | None = None
    t_max: float | None = None
    thinking: bool = False
    thinking_budget: int | None = None
    timeout: float | None = None
    isolate: bool = False
    cache_salt: str | None = None
    steering: Steering = "joint"
    draft: str | None = None
    sampler: str = "entropy_bound"
    stop_rule: str = "stable_and_confident"

    def __post_init__(self) -> None:
        self._integer("max_tokens", 1)
        self._number("temperature", 0.0, 2.0)
        self._integer("top_k", 1)
        self._number("top_p", 0.0, 1.0, above_lowest=True)
        self._integer("seed", 0, 2**63 - 1)
        self._integer("max_denoising_steps", 1)
        self._number("entropy_bound", 0.0)
        self._number("confidence_threshold", 0.0)
        self._integer("stability_threshold", 0)
        self._number("t_min", 0.0, above_lowest=True)
        self._number("t_max", 0.0, above_lowest=True)
        self._number("timeout", 0.0, above_lowest=True)
        if self.t_min is not None and self.t_max is not None and self.t_min > self.t_max:
            raise SettingError(f"t_min={self.t_min} must not be above t_max={self.t_max}")
        for name in ("thinking", "isolate"):
            if not isinstance(value := getattr(self, name), bool):
                raise SettingError(f"{name}={value!r} must be True or False")
        self._check_thinking_budget()
        self._check_stop()
        if self.steering not in get_args(Steering):
            raise SettingError(
                f"steering={self.steering!r} must be one of {', '.join(get_args(Steering))}"
            )
        for name in ("cache_salt", "draft"):
            if not isinstance(value := getattr(self, name), str | None):
                raise SettingError(f"{name}={value!r} must be a string")
        for name in ("sampler", "stop_rule"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise SettingError(f"{name}={value!r} must be the name of a registered {name}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> GenerationSettings:
        """Settings from names and values; `stop` may also be one string or a list.

        Raises UnknownSettingError, with the nearest name there is, for a name that is none.
        """
        if not isinstance(mapping, Mapping):
            raise SettingError(
                f"settings={mapping!r} must be a mapping from names to values: {{'seed': 0}}"
            )
        known = [each.name for each in fields(cls)]
        for name in mapping:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(known)}."
                raise UnknownSettingError(f"there is no setting {name!r}.{hint}")
        values = dict(mapping)
        stop = values.get("stop", ())
        if stop is None:
            values["stop"] = ()
        elif isinstance(stop, str):
            values["stop"] = (stop,)
        elif isinstance(stop, list):
            values["stop"] = tuple(stop)
        return cls(**values)

    def _integer(self, name: str, lowest: int, highest: int | None = None) -> None:
        value = getattr(self, name)
        if value is None:
            return
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < lowest or (highest is not None and value > highest):
            end = f"to {highest}" if highest is not None else "upwards"
            raise SettingError(f"{name}={value!r} must be a whole number from {lowest} {end}")

    def _number(
        self,
        name: str,
        lowest: float,
        highest: float = math.inf,
        *,
        above_lowest: bool = False,
    ) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (
            not number
            or not math.isfinite(value)
            or not lowest <= value <= highest
            or (above_lowest and value == lowest)
        ):
            start = f"above {lowest:g}" if above_lowest else f"from {lowest:g}"
            end = f" to {highest:g}" if highest != math.inf else ""
            raise SettingError(f"{name}={value!r} must be a finite number {start}{end}")

    def _check_thinking_budget(self) -> None:
        self._integer("thinking_budget", 1)
        if self.thinking_budget is not None and not self.thinking:
            raise SettingError(
                f"thinking_budget={self.thinking_budget} needs thinking=True; without it the "
                "model does not think at all"
            )

    def _check_stop(self) -> None:
        stops: object = self.stop
        if not isinstance(stops, tuple) or not all(isinstance(each, str) for each in stops):
            raise SettingError(f"stop={self.stop!r} must be a tuple of strings")
        if len(self.stop) > MAX_STOPS:
            raise SettingError(
                f"stop has {len(self.stop)} strings, at most {MAX_STOPS} are allowed"
            )
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_LENGTH:
                raise SettingError(
                    f"stop string {text[:40]!r} has {len(text)} characters; "
                    f"1 to {MAX_STOP_LENGTH} are allowed"
                )

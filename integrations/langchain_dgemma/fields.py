"""What a ChatDiffusionGemma is told when it is made: its fields, and what identifies it.

LangChain keeps a model's settings in pydantic fields; how the model answers is in `chat_models`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.model_profile import ModelProfile
from pydantic import AliasChoices, ConfigDict, Field, SecretStr, field_validator, model_validator

from dgemma_backend import GenerationSettings, __version__
from dgemma_backend.events import Draft
from langchain_dgemma import engines
from langchain_dgemma.chunks import PROVIDER
from langchain_dgemma.failures import langchain_errors
from langchain_dgemma.profile import profile_of
from langchain_dgemma.requests import ALIASES, SETTINGS, plain_call, settings_of

if TYPE_CHECKING:
    from dgemma_backend import Engine

Effort = Literal["none", "low", "medium", "high"]


def _named(name: str, default: Any) -> Any:
    """A field that also goes by the names other models have for it."""
    others = [alias for alias, own in ALIASES.items() if own == name]
    return Field(default=default, validation_alias=AliasChoices(name, *others))


class ModelFields(BaseChatModel):
    """The fields of `ChatDiffusionGemma`, which documents them."""

    model_config = ConfigDict(protected_namespaces=())

    model: str = _named("model", "tiny")
    max_tokens: int | None = _named("max_tokens", None)
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = _named("stop", None)
    thinking: bool = _named("thinking", False)
    thinking_budget: int | None = None
    reasoning_effort: Effort | None = None
    timeout: float | None = _named("timeout", None)
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    stability_threshold: int | None = None
    t_min: float | None = None
    t_max: float | None = None
    isolate: bool = False
    cache_salt: str | None = None
    draft: str | None = None
    steering: str = GenerationSettings.steering
    sampler: str = GenerationSettings.sampler
    stop_rule: str = GenerationSettings.stop_rule
    schema_in_prompt: bool = True

    engine: Any = Field(default="auto", exclude=True)
    device: str = "auto"
    dtype: str = "auto"
    kernels: str = "auto"
    quantization: str | None = None
    engine_options: dict[str, Any] = Field(default_factory=dict)

    streaming: bool = False
    drafts: Literal["off", "events"] = "off"
    drafts_per_second: float = Field(default=10.0, gt=0)
    on_draft: Callable[[Draft], object] | None = Field(default=None, exclude=True)
    heartbeat: float | None = Field(default=2.0, gt=0)

    max_retries: int | None = Field(default=None, exclude=True)
    api_key: SecretStr | None = Field(default=None, exclude=True)
    base_url: str | None = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _tell_unknown_names(cls, values: Any) -> Any:
        known = [*cls.model_fields, *ALIASES]
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                warnings.warn(
                    f"ChatDiffusionGemma has no parameter {name!r}; it is ignored.{hint}",
                    stacklevel=4,
                )
        return values

    @field_validator("stop", mode="before")
    @classmethod
    def _list_a_single_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _check_settings(self) -> ModelFields:
        self._settings({})
        return self

    @model_validator(mode="after")
    def _set_dgemma_version(self) -> ModelFields:
        if hasattr(self, "_add_version"):  # came with langchain-core 1.3
            self._add_version("langchain-dgemma", __version__)
        return self

    def _resolve_model_profile(self) -> ModelProfile | None:
        return profile_of(self.model, self.engine)

    @property
    def _llm_type(self) -> str:
        return "chat-diffusion-gemma"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that can change an answer."""
        return {
            **self._own_settings(),
            "model": self._answering({}),
            "weights": engines.fingerprint_of(self.model, self.engine),
            "schema_in_prompt": self.schema_in_prompt,
            "output_version": self.output_version,
            "engine_options": self.engine_options,
            **self._place(),
        }

    def _place(self) -> dict[str, Any]:
        """What the model runs on, as far as it is settled."""
        told = self if isinstance(self.engine, str) else self.engine.info
        names = ("engine", "device", "dtype", "kernels", "quantization")
        return {name: getattr(told, name) for name in names}

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        stop = self.stop if stop is None else stop  # LangChain's cache key holds this one only
        return super()._get_invocation_params(stop=stop, **plain_call(kwargs))

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The cache key of a call, beside its messages."""
        return super()._get_llm_string(stop=stop, **plain_call(kwargs))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """What traces are told; the call's own values come first."""
        kwargs = {ALIASES.get(name, name): value for name, value in kwargs.items()}
        called_with = kwargs.pop("stop", None)
        kwargs.setdefault("model", self._answering({}))
        params = super()._get_ls_params(stop=stop or called_with or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def _own_settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*SETTINGS, "reasoning_effort")}

    def _settings(self, given: Mapping[str, Any]) -> GenerationSettings:
        """The model's settings, with those of a call before them."""
        return settings_of(self._own_settings(), given)

    def _called(self, kwargs: Mapping[str, Any]) -> str:
        """The model a call asks for."""
        names = ("model", *(name for name, own in ALIASES.items() if own == "model"))
        return str(next(filter(None, map(kwargs.get, names)), self.model))

    def _answering(self, kwargs: Mapping[str, Any]) -> str:
        """The model that will answer a call, as its engine calls it."""
        return self._called(kwargs) if isinstance(self.engine, str) else self.engine.info.model

    def _open_engine(self, name: str) -> Engine:
        """The engine for a model name, loaded at the first call."""
        return engines.engine_of(
            name,
            self.engine,
            own_name=self.model,
            device=self.device,
            dtype=self.dtype,
            kernels=self.kernels,
            quantization=self.quantization,
            **self.engine_options,
        )

    def preload(self) -> None:
        """Load the weights now instead of at the first call."""
        with langchain_errors():
            self._open_engine(self.model)

    def close(self) -> None:
        """Let go of the weights; models with the same arguments load them again when called.

        An engine that was given open stays open: whoever opened it closes it.
        """
        if isinstance(self.engine, str):
            engines.close(
                self.model,
                self.engine,
                device=self.device,
                dtype=self.dtype,
                kernels=self.kernels,
                quantization=self.quantization,
                **self.engine_options,
            )

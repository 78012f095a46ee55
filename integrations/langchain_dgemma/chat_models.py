"""ChatDiffusionGemma: the engine behind LangChain's chat model interface."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, NoReturn

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from dgemma_backend import GenerationSettings, __version__
from dgemma_backend.errors import ModelNotFoundError, SettingError, UnknownSettingError
from dgemma_backend.events import Draft
from langchain_dgemma.chunks import PROVIDER, ChunkMaker
from langchain_dgemma.convert import to_messages, to_tool_choice, to_tools
from langchain_dgemma.failures import langchain_errors

if TYPE_CHECKING:
    from dgemma_backend import Engine

SETTINGS = (
    "max_tokens", "temperature", "top_k", "top_p", "seed", "stop", "thinking", "timeout",
    "max_denoising_steps", "entropy_bound", "confidence_threshold", "stability_threshold",
    "t_min", "t_max", "sampler", "stop_rule",
)  # fmt: skip
ALIASES = {"model_name": "model", "stop_sequences": "stop"}


class ChatDiffusionGemma(BaseChatModel):
    """A DiffusionGemma checkpoint that runs in this process, as a chat model.

    ```python
    model = ChatDiffusionGemma(model="tiny", temperature=0)
    model.invoke("Hello!").content
    ```

    `model` is `"tiny"` (built in), a folder or a hub id; the weights are loaded at the first call
    and shared by every model of this process with the same `model`, `engine`, `device`, `dtype`,
    `kernels` and `quantization`. `engine` also takes an engine that is open already. Everything in
    `SETTINGS` can be given here, bound, or passed to a call; `None` means the checkpoint's own.

    `stream` yields one chunk per settled canvas, and what it has yielded never changes. With
    `on_draft` the canvas can be watched before it has settled: the function is called with every
    draft (`dgemma_backend.events.Draft`), on the thread that reads the answer.

    Errors are those of `langchain_core.exceptions`. `max_retries`, `api_key` and `base_url` are
    accepted for the sake of programs written for remote models; there is nothing they could change.
    """

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(default="tiny", validation_alias=AliasChoices("model", "model_name"))
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = Field(
        default=None, validation_alias=AliasChoices("stop", "stop_sequences")
    )
    thinking: bool = False
    timeout: float | None = None
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    stability_threshold: int | None = None
    t_min: float | None = None
    t_max: float | None = None
    sampler: str = "entropy_bound"
    stop_rule: str = "stable_and_confident"

    engine: Any = Field(default="auto", exclude=True)
    device: str = "auto"
    dtype: str = "auto"
    kernels: str = "auto"
    quantization: str | None = None
    on_draft: Callable[[Draft], object] | None = Field(default=None, exclude=True)
    streaming: bool = False

    max_retries: int | None = Field(default=None, exclude=True)
    api_key: SecretStr | None = Field(default=None, exclude=True)
    base_url: str | None = Field(default=None, exclude=True)

    _engines: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, values: Any) -> Any:
        known = [*cls.model_fields, *ALIASES]
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise UnknownSettingError(f"ChatDiffusionGemma has no parameter {name!r}.{hint}")
        return values

    @model_validator(mode="after")
    def _check_settings(self) -> ChatDiffusionGemma:
        self._settings({})
        return self

    @model_validator(mode="after")
    def _set_dgemma_version(self) -> ChatDiffusionGemma:
        if hasattr(self, "_add_version"):  # came with langchain-core 1.3
            self._add_version("langchain-dgemma", __version__)
        return self

    @property
    def _llm_type(self) -> str:
        return "chat-diffusion-gemma"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that can change an answer."""
        names = ("model", *SETTINGS, "device", "dtype", "kernels", "quantization")
        return {name: getattr(self, name) for name in names}

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        kwargs.pop("on_draft", None)  # watching changes no answer
        stop = self.stop if stop is None else stop  # LangChain's cache key holds this one only
        return super()._get_invocation_params(stop=stop, **kwargs)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """What traces are told; the call's own values come first."""
        kwargs = {ALIASES.get(name, name): value for name, value in kwargs.items()}
        called_with = kwargs.pop("stop", None)
        stop = stop or called_with or self.stop
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            engine = self._open_engine(kwargs)
            on_draft, request = self._request(messages, stop, kwargs)
            maker = self._chunk_maker(engine)
            # closing the iterator stops the engine, also when the reader leaves early
            with closing(engine.stream(**request)) as events:  # type: ignore[type-var]
                for event in events:
                    if isinstance(event, Draft):
                        on_draft(event)
                    else:
                        yield from maker.chunks(event)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            engine = await asyncio.to_thread(self._open_engine, kwargs)
            on_draft, request = self._request(messages, stop, kwargs)
            maker = self._chunk_maker(engine)
            async with aclosing(engine.astream(**request)) as events:  # type: ignore[type-var]
                async for event in events:
                    if isinstance(event, Draft):
                        on_draft(event)
                    else:
                        for chunk in maker.chunks(event):
                            yield chunk

    def _chunk_maker(self, engine: Engine) -> ChunkMaker:
        return ChunkMaker(engine.info.model, blocks=self.output_version == "v1")

    def _request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Callable[[Draft], object], dict[str, Any]]:
        """Who watches drafts, and the arguments of `Engine.stream`. Unknown names raise."""
        given = {ALIASES.get(name, name): value for name, value in kwargs.items()}
        for handled in ("model", "stream"):
            given.pop(handled, None)
        on_draft = given.pop("on_draft", None) or self.on_draft
        tools = to_tools(given.pop("tools", None) or ())
        choice = to_tool_choice(given.pop("tool_choice", None), [tool.name for tool in tools])
        if stop is not None:
            given["stop"] = stop
        request = {
            "messages": to_messages(messages),
            "tools": tools,
            "tool_choice": choice,
            "settings": self._settings(given),
            "drafts": on_draft is not None,
        }
        return on_draft or _nobody, request

    def _settings(self, given: dict[str, Any]) -> GenerationSettings:
        """The model's settings, with those of a call before them."""
        own = {name: getattr(self, name) for name in SETTINGS}
        return GenerationSettings.from_mapping({**own, **given})

    def _open_engine(self, kwargs: dict[str, Any]) -> Engine:
        """The engine for a call, loaded at the first one."""
        name = kwargs.get("model") or kwargs.get("model_name") or self.model
        if not isinstance(self.engine, str):
            engine: Engine = self.engine
            if name not in (self.model, engine.info.model):
                raise ModelNotFoundError(
                    f"model={name!r} was asked for in a call, but this ChatDiffusionGemma was "
                    f"given an open engine, of {engine.info.model!r}. Leave engine= out to let it "
                    "open models by name."
                )
            return engine
        opened: Engine | None = self._engines.get(name)
        if opened is None or opened.closed:
            from dgemma_backend import open_engine

            opened = open_engine(
                name,
                engine=self.engine,
                device=self.device,
                dtype=self.dtype,
                kernels=self.kernels,
                quantization=self.quantization,
            )
            self._engines[name] = opened
        return opened

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ChatDiffusionGemma:
        """A copy with settings of its own and the same engine."""
        memo = {} if memo is None else memo
        for engine in (self.engine, *self._engines.values()):
            memo[id(engine)] = engine
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """For pickle: what to open, not what is open."""
        state = super().__getstate__()
        private = {**(state["__pydantic_private__"] or {}), "_engines": {}}
        return {**state, "__pydantic_private__": private}

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Exactly as many tokens as a call with these messages and tools would have as input."""
        with langchain_errors():
            engine = self._open_engine({})
            return engine.count_tokens(to_messages(messages), to_tools(tools or ()))

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._open_engine({}).token_ids(text)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Declare tools to the model, in any form LangChain knows.

        The model decides whether it calls one (`tool_choice` "auto"); with "none" it is told of
        none. Raises for an unknown tool, and for whatever would need a call to be forced or
        restricted, which is not supported yet: another `tool_choice`, `strict=True`,
        `parallel_tool_calls=False`.
        """
        with langchain_errors():
            declared = to_tools(tools)
            choice = to_tool_choice(tool_choice, [tool.name for tool in declared])
            if choice is not None and choice.mode != "none":
                _not_supported(f"tool_choice={tool_choice!r}", "tool_choice='auto'")
            if strict:
                _not_supported("strict=True", "strict=False and check the arguments")
            if parallel_tool_calls is False:
                _not_supported("parallel_tool_calls=False", "only the first call")
        if choice is not None:
            kwargs["tool_choice"] = choice.mode
        functions = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in declared
        ]
        return self.bind(tools=functions, **kwargs)

    def with_structured_output(self, schema: Any, **kwargs: Any) -> NoReturn:
        """Not supported yet: nothing makes the model keep to a schema."""
        with langchain_errors():
            _not_supported(
                "with_structured_output",
                "bind_tools([schema]) with PydanticToolsParser, or ask for JSON in the prompt and "
                "use JsonOutputParser",
            )


def _not_supported(what: str, instead: str) -> NoReturn:
    raise SettingError(f"{what} is not supported yet: it needs forced decoding. Use {instead}.")


def _nobody(draft: Draft) -> None:
    """Watches nothing."""

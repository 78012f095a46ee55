"""DiffusionGemma: the engine behind LlamaIndex's interface of a model that calls tools."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, Self

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr

from dgemma_backend import GenerationSettings, Message, UnsafeRawPrompt
from dgemma_backend.errors import SettingError, UnknownSettingError
from dgemma_backend.events import Draft, Event
from llama_index.llms.dgemma.convert import (
    calls_of,
    plain_tool,
    plain_tool_choice,
    to_messages,
    to_response_format,
    to_tool_choice,
    to_tools,
)
from llama_index.llms.dgemma.drafts import DraftEvent
from llama_index.llms.dgemma.failures import NoToolCallError
from llama_index.llms.dgemma.fold import UNREADABLE, Fold, Granularity, completion, whole
from llama_index.llms.dgemma.handle import EngineHandle
from llama_index.llms.dgemma.structured import StructuredPrediction, dispatcher

PER_CALL = ("draft",)
"""Settings that make sense for one answer only, so an object has none."""
SETTINGS = tuple(each.name for each in fields(GenerationSettings) if each.name not in PER_CALL)
UNUSED = ("completion_to_prompt", "messages_to_prompt", "query_wrapper_prompt")
UNKNOWN_CONTEXT = 8192
"""Tokens of context to plan with while the model's files are not on this machine."""

Conversation = list[Message] | UnsafeRawPrompt


class DiffusionGemma(StructuredPrediction):
    """A DiffusionGemma checkpoint that runs in this process, as a LlamaIndex LLM.

    ```python
    llm = DiffusionGemma(model="tiny", temperature=0)
    llm.complete("Hello!").text
    ```

    `model` is `"tiny"` (built in), a folder or a hub id; weights are loaded at the first call and
    shared by every LLM of this process with the same `model`, `engine`, `device`, `dtype`,
    `kernels`, `quantization` and `engine_options`, copies of this object included. `engine` also
    takes an engine that is open already. `close` gives the weights back.

    All settings of `dgemma_backend.GenerationSettings` can be given here or to a call (`draft` to a
    call only); None means the checkpoint's own. A call also takes `tools`, `tool_choice`,
    `parallel_tool_calls` and `response_format`. Names that do not exist are refused.

    Streams yield a response for every settled canvas, cut into sentences or words if
    `stream_granularity` says so; what was yielded never changes. With `draft_events`, canvases
    that have not settled yet can be watched: LlamaIndex's dispatcher gets a `DraftEvent` each step.

    LlamaIndex itself applies `system_prompt` in `predict`, `stream` and the structured methods
    only, never in `chat` and `complete`.
    """

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(
        default="tiny", description="'tiny', a checkpoint's folder or a hub id.", frozen=True
    )
    engine: Any = Field(
        default="auto", description="Kind of engine, or an open one.", exclude=True, frozen=True
    )
    device: str = Field(default="auto", description="'auto', 'cpu' or 'cuda[:N]'.", frozen=True)
    dtype: str = Field(default="auto", description="'auto', 'float32' or 'bfloat16'.", frozen=True)
    kernels: str = Field(default="auto", description="'auto' or registered kernels.", frozen=True)
    quantization: str | None = Field(default=None, description="A registered format.", frozen=True)
    engine_options: dict[str, Any] = Field(
        default_factory=dict,
        description="More for `open_engine`, as a plugin may ask.",
        exclude=True,
        frozen=True,
    )
    context_window: int | None = Field(
        default=None, gt=0, description="Tokens of context to plan with; None: the model's own."
    )
    stream_granularity: Granularity = Field(
        default="block", description="What a streamed response adds: a canvas, sentence or word."
    )
    draft_events: bool = Field(default=False, description="Send a DraftEvent for every step.")

    max_tokens: int | None = Field(default=None, description="Tokens of an answer, at most.")
    temperature: float | None = Field(default=None, description="1: the checkpoint's own noise.")
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = Field(default=None, description="Same seed and request, same answer.")
    stop: tuple[str, ...] = Field(default=(), description="Strings that end an answer.")
    max_denoising_steps: int | None = Field(default=None, description="Steps per canvas.")
    entropy_bound: float | None = None
    confidence_threshold: float | None = None
    stability_threshold: int | None = None
    t_min: float | None = None
    t_max: float | None = None
    thinking: bool = Field(default=False, description="Think before answering.")
    thinking_budget: int | None = Field(default=None, description="Tokens of thought, at most.")
    timeout: float | None = Field(default=None, description="Seconds for an answer.")
    isolate: bool = False
    cache_salt: str | None = Field(default=None, exclude=True)
    steering: Literal["off", "joint", "constrained"] = GenerationSettings.steering
    sampler: str = GenerationSettings.sampler
    stop_rule: str = GenerationSettings.stop_rule

    _handle: EngineHandle = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        _check_names(type(self), data)
        if isinstance(data.get("stop"), str):
            data["stop"] = (data["stop"],)
        super().__init__(**data)
        self._settings({})
        kinds = ("device", "dtype", "kernels", "quantization")
        options = {**{name: getattr(self, name) for name in kinds}, **self.engine_options}
        if isinstance(self.engine, str):
            self._handle = EngineHandle(self.model, {"engine": self.engine, **options})
        else:
            self._handle = EngineHandle(self.model, options, self.engine)

    @classmethod
    def class_name(cls) -> str:
        """As `BaseComponent.class_name`."""
        return "DiffusionGemma_LLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans prompts with. Opens no engine.

        `num_output` is what prompts leave room for: `max_tokens`, or else a quarter of the
        context, at most 2,048 tokens.
        """
        window = self.context_window or self._handle.context_length() or UNKNOWN_CONTEXT
        return LLMMetadata(
            context_window=window,
            num_output=self.max_tokens or min(2048, window // 4),
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model if isinstance(self.engine, str) else self.engine.info.model,
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer: `Settings.tokenizer = llm.tokenizer.encode`."""
        return Tokenizer(lambda text: self._handle.open().token_ids(text))

    def close(self) -> None:
        """Give the weights back; a later call loads them again."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The whole answer. Raises what `dgemma_backend.Engine.generate` raises."""
        return _last_of(self._stream(to_messages(messages), kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """The answer as it grows. Arguments are checked now; the work begins with `next`."""
        return self._stream(to_messages(messages), kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` that leaves the event loop free; cancelling the task stops the work."""
        return await _alast_of(self._astream(to_messages(messages), kwargs))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """`stream_chat` that leaves the event loop free."""
        return self._astream(to_messages(messages), kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to `prompt` as a user's message; `formatted`: as a raw prompt.

        A raw prompt is sent as it stands, control tokens and all, with one `<bos>` in front.
        """
        return completion(_last_of(self._stream(_prompt(prompt, formatted), kwargs)))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """`complete`, as the answer grows."""
        responses = self._stream(_prompt(prompt, formatted), kwargs)

        def completions() -> CompletionResponseGen:
            with closing(responses):
                for response in responses:
                    yield completion(response)

        return completions()

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """`complete` that leaves the event loop free."""
        return completion(await _alast_of(self._astream(_prompt(prompt, formatted), kwargs)))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """`stream_complete` that leaves the event loop free."""
        responses = self._astream(_prompt(prompt, formatted), kwargs)

        async def completions() -> CompletionResponseAsyncGen:
            async with aclosing(responses):
                async for response in responses:
                    yield completion(response)

        return completions()

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of an answer. Raises NoToolCallError if there is none, unless told not to.

        A call whose arguments cannot be read gets a name that no tool has: an agent then tells
        the model instead of running something.
        """
        calls = calls_of(response.message)
        if not calls and error_on_no_tool_call:
            said = response.message.content
            raise NoToolCallError(f"expected a tool call, the answer is only text: {said!r:.200}")
        return [
            ToolSelection(
                tool_id=call.id,
                tool_name=call.name if call.arguments is not None else f"{call.name} {UNREADABLE}",
                tool_kwargs=call.arguments or {},
            )
            for call in calls
        ]

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of `chat` for a request with tools. The given history is not touched."""
        messages = list(chat_history or [])
        if user_msg is not None:
            new = ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg
            messages.append(new)
        plain = [plain_tool(tool) for tool in tools]
        names = [each["function"]["name"] for each in plain]
        choice = to_tool_choice(
            tool_choice, names, required=tool_required, parallel=allow_parallel_tool_calls
        )
        return {
            "messages": messages,
            "tools": plain,
            "tool_choice": plain_tool_choice(choice),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _stream(self, conversation: Conversation, kwargs: dict[str, Any]) -> ChatResponseGen:
        request = self._request(conversation, kwargs)

        def responses() -> ChatResponseGen:
            fold = Fold(self.stream_granularity)
            events: Iterator[Event] = self._handle.open().stream(**request)
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    if isinstance(event, Draft):
                        dispatcher.event(DraftEvent.of(event))
                    else:
                        yield from fold.take(event)

        return responses()

    def _astream(self, conversation: Conversation, kwargs: dict[str, Any]) -> ChatResponseAsyncGen:
        request = self._request(conversation, kwargs)

        async def responses() -> ChatResponseAsyncGen:
            fold = Fold(self.stream_granularity)
            engine = self._handle.live
            if engine is None:
                engine = await asyncio.to_thread(self._handle.open)
            events: AsyncIterator[Event] = engine.astream(**request)
            async with aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    if isinstance(event, Draft):
                        dispatcher.event(DraftEvent.of(event))
                    else:
                        for response in fold.take(event):
                            yield response

        return responses()

    def _request(self, conversation: Conversation, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `Engine.stream`. Unknown names and bad values raise."""
        given = dict(kwargs)
        tools = to_tools(given.pop("tools", None) or ())
        choice = to_tool_choice(
            given.pop("tool_choice", None),
            [tool.name for tool in tools],
            parallel=given.pop("parallel_tool_calls", True),
        )
        return {
            "messages": conversation,
            "tools": tools,
            "tool_choice": choice,
            "response_format": to_response_format(given.pop("response_format", None)),
            "settings": self._settings(given),
            "drafts": self.draft_events,
        }

    def _settings(self, given: dict[str, Any]) -> GenerationSettings:
        """This object's settings, with those of a call before them."""
        own = {name: getattr(self, name) for name in SETTINGS}
        if given.get("thinking") is False:
            own["thinking_budget"] = None
        return GenerationSettings.from_mapping({**own, **given})

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: what to open, not what is open. Raises TypeError if that cannot be said."""
        if not isinstance(self.engine, str):
            self.engine.__reduce__()  # core would leave the engine out, with a line in the log
        return super().__getstate__()


class Tokenizer(NamedTuple):
    """Text -> the model's own token ids, without anything of a conversation around it."""

    encode: Callable[[str], list[int]]


def _check_names(cls: type[DiffusionGemma], data: dict[str, Any]) -> None:
    for name, value in data.items():
        if name in UNUSED and value is not None:
            raise SettingError(
                f"{name} has no effect here: prompts are written in the checkpoint's own chat "
                "format. For a prompt of your own: complete(prompt, formatted=True)."
            )
        if name not in cls.model_fields:
            near = get_close_matches(name, cls.model_fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownSettingError(f"DiffusionGemma has no parameter {name!r}.{hint}")


def _prompt(prompt: str, formatted: bool) -> Conversation:
    return UnsafeRawPrompt(prompt) if formatted else [Message.user(prompt)]


def _last_of(responses: ChatResponseGen) -> ChatResponse:
    (last,) = deque(responses, maxlen=1)  # an answer that raises nothing has a last response
    return whole(last)


async def _alast_of(responses: ChatResponseAsyncGen) -> ChatResponse:
    async with aclosing(responses):
        last = [response async for response in responses][-1]
    return whole(last)

"""ChatDiffusionGemma: the engine behind LangChain's chat model interface."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import LC_ID_PREFIX, AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from dgemma_backend.events import Draft, Event
from langchain_dgemma.chunks import ChunkMaker
from langchain_dgemma.convert import to_messages
from langchain_dgemma.failures import langchain_errors
from langchain_dgemma.fields import ModelFields
from langchain_dgemma.formats import bound_format, to_response_format
from langchain_dgemma.protocol_events import ProtocolEventMaker
from langchain_dgemma.requests import Call, call_of
from langchain_dgemma.structured import structured
from langchain_dgemma.tools import plain_choice, plain_tools, to_tool_choice, to_tools
from langchain_dgemma.watching import DRAFT, PROGRESS, DraftGate, atell, beating, draft_data, tell


class ChatDiffusionGemma(ModelFields):
    """A DiffusionGemma checkpoint that runs in this process, as a chat model.

    ```python
    model = ChatDiffusionGemma(model="tiny", temperature=0)
    model.invoke("Hello!").content
    ```

    Every field can be given here; all but those of the engine can also be bound or passed to a
    call, and a call's own values come first. `None` means the checkpoint's own.

    **Model and engine.** `model` is `"tiny"` (built in), a folder or a hub id. The weights are
    loaded at the first call (or by `preload()`), once in a process for the same `model`,
    `engine`, `device`, `dtype`, `kernels`, `quantization` and `engine_options`; `close()` lets go
    of them. `engine` also takes an engine that is open already.

    **Settings.** `temperature`, `top_k`, `top_p`, `seed`, `stop`, `max_tokens`, `thinking`,
    `thinking_budget` and the others of `dgemma_backend.GenerationSettings`. `timeout` is a
    deadline in seconds for the whole answer. `reasoning_effort` ("none", "low", "medium", "high")
    stands for `thinking` with a budget of 256 or 1,024 tokens or none. With `schema_in_prompt`
    the schema of a wanted answer is told to the model as well as enforced.

    **Streaming.** `stream` yields a chunk per settled canvas, and what it has yielded never
    changes. A canvas can be watched before it has settled: `on_draft` is called with every
    `dgemma_backend.events.Draft`, on the thread that reads the answer; `drafts="events"` makes
    events of them, `drafts_per_second` at the most (see `docs/langchain.md`). Drafts are never
    part of messages, traces or caches, and no middleware has redacted them. Where nothing becomes
    final for `heartbeat` seconds, asynchronous streams give an empty chunk as a sign of life.

    **Other names.** `model_name`, `model_id`, `stop_sequences`, `max_completion_tokens`,
    `max_new_tokens`, `num_predict`, `request_timeout` and `reasoning` are understood;
    `max_retries`, `api_key` and `base_url` are accepted for the sake of programs written for
    remote models and change nothing. Another unknown name is a warning here and an error in a
    call.

    Errors are those of `langchain_core.exceptions`, with our own as cause.
    """

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
        async with aclosing(self._achunks(messages, stop, run_manager, kwargs)) as chunks:
            return generate_from_stream(iter([chunk async for chunk in chunks]))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        maker = self._chunk_maker(kwargs)
        with closing(self._events(messages, stop, kwargs)) as events:
            for event in events:
                if isinstance(event, Draft):
                    tell(run_manager, DRAFT, draft_data(event))
                else:
                    yield from maker.chunks(event)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self._achunks(messages, stop, run_manager, kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _achunks(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        kwargs: Mapping[str, Any],
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        maker = self._chunk_maker(kwargs)
        async with aclosing(self._aevents(messages, stop, kwargs)) as events:
            async for event in events:
                if isinstance(event, Draft):
                    await atell(run_manager, DRAFT, draft_data(event))
                elif not isinstance(event, float):
                    for chunk in maker.chunks(event):
                        yield chunk
                elif run_manager is None:
                    yield maker.empty()
                else:
                    await atell(run_manager, PROGRESS, {"seconds": event})

    def _stream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """The events of `stream_events(version="v3")`."""
        maker = self._protocol_event_maker(run_manager, kwargs)
        yield maker.start()
        with closing(self._events(messages, stop, kwargs)) as events:
            for event in events:
                yield from maker.events(event)

    async def _astream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """The events of `astream_events(version="v3")`."""
        maker = self._protocol_event_maker(run_manager, kwargs)
        yield maker.start()
        async with aclosing(self._aevents(messages, stop, kwargs)) as events:
            async for event in events:
                if isinstance(event, float):
                    yield maker.progress(event)
                else:
                    for told in maker.events(event):
                        yield told

    def _events(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Generator[Event, None, None]:
        """What the engine says, drafts as far as they are wanted. Closing it stops the engine."""
        with langchain_errors():
            engine = self._open_engine(self._called(kwargs))
            call = self._call(messages, stop, kwargs)
            gate = self._gate(call)
            events: Any = engine.stream(**call.request, drafts=gate.wanted)
            with closing(events):
                for event in events:
                    yield from gate.take(event)

    async def _aevents(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> AsyncGenerator[Event | float, None]:
        """`_events` for an event loop, with signs of life between them."""
        with langchain_errors():
            said = self._asaid(messages, stop, kwargs)
            async with aclosing(said), aclosing(beating(said, self.heartbeat)) as events:
                async for event in events:
                    yield event

    async def _asaid(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> AsyncGenerator[Event, None]:
        engine = await asyncio.to_thread(self._open_engine, self._called(kwargs))
        call = self._call(messages, stop, kwargs)
        gate = self._gate(call)
        events: Any = engine.astream(**call.request, drafts=gate.wanted)
        async with aclosing(events):
            async for event in events:
                for passed in gate.take(event):
                    yield passed

    def _chunk_maker(self, kwargs: Mapping[str, Any]) -> ChunkMaker:
        return ChunkMaker(self._answering(kwargs), blocks=self.output_version == "v1")

    def _protocol_event_maker(
        self,
        run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        kwargs: Mapping[str, Any],
    ) -> ProtocolEventMaker:
        message_id = "" if run is None else f"{LC_ID_PREFIX}-{run.run_id}"
        return ProtocolEventMaker(self._answering(kwargs), message_id)

    def _gate(self, call: Call) -> DraftGate:
        return DraftGate(call.on_draft, events=call.draft_events, per_second=self.drafts_per_second)

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> Call:
        return call_of(
            messages,
            stop,
            kwargs,
            own=self._own_settings(),
            drafts=self.drafts,
            on_draft=self.on_draft,
            schema_in_prompt=self.schema_in_prompt,
        )

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Exactly as many tokens as a call with these messages and tools would have as input."""
        with langchain_errors():
            engine = self._open_engine(self.model)
            return engine.count_tokens(
                to_messages(messages),
                to_tools(tools or ()),
                thinking=self._settings({}).thinking,
            )

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._open_engine(self.model).token_ids(text)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Declare tools to the model, in any form LangChain knows.

        Args:
            tools: Functions, tools, pydantic classes (v1 too), TypedDicts, JSON schemas with a
                title, and the declarations of OpenAI and Anthropic.
            tool_choice: "auto" or None: the model decides. "any", "required" or True: at least
                one call. A tool's name, alone or in OpenAI's or Anthropic's form: that tool.
                "none": the model is told of no tool. With thinking on, the model thinks first.
            strict: Refuse a schema with a rule that decoding cannot guarantee.
            parallel_tool_calls: False allows one call at the most.
            response_format: What the text of an answer must be, if the model calls no tool: a
                schema, or OpenAI's `{"type": "json_schema", ...}` or `{"type": "json_object"}`.
            **kwargs: Bound to every call as they are.

        Raises ModelInvalidRequestError, which is also a ValueError, for an unknown tool or form.
        """
        with langchain_errors():
            declared = plain_tools(tools)
            names = [tool["function"]["name"] for tool in declared]
            to_tool_choice(tool_choice, names)  # an unknown tool is told here
            if response_format is not None:
                to_response_format(response_format)  # and so is what is no form
                kwargs["response_format"] = bound_format(response_format)
        if declared:
            kwargs["tools"] = declared
        if plain_choice(tool_choice) != "auto":
            kwargs["tool_choice"] = plain_choice(tool_choice)
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        if strict is not None:
            kwargs["strict"] = strict
        return self.bind(**kwargs)

    def with_structured_output(
        self,
        schema: Any = None,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        tools: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A runnable whose output is what `schema` describes.

        Args:
            schema: A pydantic class (v1 too), whose objects come out; or a TypedDict, a JSON
                schema or a tool declaration, for which dicts come out.
            method: "json_schema": the text of the answer is JSON of this schema, by constraint.
                "function_calling": a forced call of a tool of this schema. "json_mode": any JSON
                object, the prompt says which.
            include_raw: Give a dict of `raw` (the message), `parsed` and `parsing_error` instead
                of raising.
            strict: Refuse a schema with a rule that decoding cannot guarantee, instead of checking
                the finished answer for it.
            tools: Tools beside the schema (with "json_schema"): an answer that calls one is
                parsed as None.
            **kwargs: Bound to every call as they are.

        Raises ModelInvalidRequestError, which is also a ValueError, for what cannot be done.
        """
        with langchain_errors():
            return structured(
                self.bind_tools,
                schema,
                method=method,
                include_raw=include_raw,
                strict=strict,
                tools=tools,
                bound=kwargs,
            )

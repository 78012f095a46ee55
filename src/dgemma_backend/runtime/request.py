"""One request, checked and resolved before any pass runs."""

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Event as Flag
from typing import Any

from dgemma_backend.config import DecodingDefaults
from dgemma_backend.errors import (
    CancelledError,
    ContextLengthError,
    DeadlineExceededError,
    EmptyPromptError,
    PromptError,
    SettingError,
)
from dgemma_backend.messages import Message, ResponseFormat, Tool, ToolChoice
from dgemma_backend.settings import GenerationSettings

DEFAULT_MAX_TOKENS = 4096
"""Answer length where a request names none and the context has room for it."""


@dataclass
class Request:
    """A conversation on its way through the engine.

    `max_tokens` and `seed` are settled here; `check` is called before every denoising step.
    """

    prompt_ids: list[int]
    tools: tuple[Tool, ...]
    settings: GenerationSettings
    max_tokens: int
    seed: int
    messages: Sequence[Message] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    template: tuple[Any, ...] = ()  # fixed texts and holes that the answer is made of
    sequences: tuple[tuple[int, ...], ...] = ()  # token ids to be scored, not generated
    constraint: Any = None  # what makes the engine keep to choice, format and template
    attempt: int = 0  # how often the answer was written before, and failed its check
    cancelled: Flag = field(default_factory=Flag)
    clock: Callable[[], float] = time.perf_counter
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def again(self, attempt: int) -> "Request":
        """The same request, from other noise after its first attempt; the clock runs on."""
        if attempt == 0:
            return self
        another = replace(self, attempt=attempt, cancelled=Flag())
        another.started = self.started
        return another

    def check(self) -> None:
        """Raise `CancelledError` or `DeadlineExceededError` if the request should end now."""
        if self.cancelled.is_set():
            raise CancelledError("The request was cancelled.")
        timeout = self.settings.timeout
        if timeout is not None and self.clock() - self.started > timeout:
            raise DeadlineExceededError(
                f"The request did not finish within timeout={timeout} s. Allow more time, or "
                "ask for less with max_tokens or max_denoising_steps."
            )


def as_messages(messages: str | Sequence[Message]) -> list[Message]:
    """A conversation as a list. Raises `EmptyPromptError` where there is nothing to answer."""
    given = [Message.user(messages)] if isinstance(messages, str) else _listed(messages)
    if not any(each.text.strip() or each.tool_calls or _has_image(each) for each in given):
        said = "an empty list" if not given else f"{len(given)} message(s) without text"
        raise EmptyPromptError(
            f"There is nothing to answer: got {said}. Pass at least one message with text."
        )
    return given


def _listed(messages: Sequence[Message]) -> list[Message]:
    given = list[Any](messages if isinstance(messages, Iterable) else [messages])
    for each in given:
        if not isinstance(each, Message):
            raise PromptError(
                f"a conversation is a string or a list of Message objects, got {each!r:.80}. Write "
                "Message.user('...')."
            )
    return given


def _has_image(message: Message) -> bool:
    return not isinstance(message.content, str | None) and len(message.content) > 0


def usable_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> tuple[Tool, ...]:
    """The tools to declare. `none` declares none, so there is nothing to call.

    Raises `SettingError` for a choice that the tools cannot fulfil.
    """
    strange = [tool for tool in tools if not isinstance(tool, Tool)] if _many(tools) else [tools]
    if strange:
        raise SettingError(
            f"tools must be a list of Tool objects, got {strange[0]!r:.80}. Write "
            "Tool('name', 'what it does', {...})."
        )
    if not isinstance(choice, ToolChoice | None):
        raise SettingError(
            f"tool_choice={choice!r:.80} must be a ToolChoice: ToolChoice('required')."
        )
    if choice is None or choice.mode == "auto":
        return tuple(tools)
    if choice.mode == "none":
        return ()
    names = [tool.name for tool in tools]
    if not names:
        raise SettingError(f"tool choice {choice.mode!r} needs tools, and none were given.")
    if choice.name is not None and choice.name not in names:
        raise SettingError(
            f"tool choice names {choice.name!r}, which is none of the tools: {', '.join(names)}."
        )
    return tuple(tools)


def _many(tools: object) -> bool:
    return isinstance(tools, list | tuple)


def settle_seed(settings: GenerationSettings) -> int:
    """The request's seed; 0 with temperature 0, else a random one where none was given."""
    if settings.seed is not None:
        return settings.seed
    return 0 if settings.temperature == 0 else secrets.randbits(63)


def settle_max_tokens(settings: GenerationSettings, prompt: int, canvas: int, context: int) -> int:
    """How many tokens may be generated, given prompt, canvas and context lengths in tokens.

    Whole canvases must fit behind the prompt, also where only a part of the last is kept, or of
    the one in which a thought used up its budget. Raises `ContextLengthError` where they do not.
    """
    cut = canvas if settings.thinking_budget is not None else 0
    room = (context - prompt - cut) // canvas * canvas
    if room <= 0:
        raise ContextLengthError(
            f"The prompt has {prompt} tokens; with one canvas of {canvas} it does not fit the "
            f"context of {context}. Shorten the conversation by {prompt + canvas - context} "
            "tokens or more."
        )
    if settings.max_tokens is None:
        return min(room, max(DEFAULT_MAX_TOKENS, canvas))
    if settings.max_tokens > room:
        raise ContextLengthError(
            f"max_tokens={settings.max_tokens} does not fit: the context of {context} tokens has "
            f"room for {room} behind a prompt of {prompt}, in whole canvases of {canvas}. Lower "
            "max_tokens or shorten the prompt."
        )
    return settings.max_tokens


def open_request(
    prompt_ids: list[int],
    tools: tuple[Tool, ...],
    settings: GenerationSettings,
    defaults: DecodingDefaults,
    canvas: int,
    context: int,
) -> Request:
    """A request ready to run. Raises `ContextLengthError` and `SettingError`."""
    t_min = defaults.t_min if settings.t_min is None else settings.t_min
    t_max = defaults.t_max if settings.t_max is None else settings.t_max
    if t_min > t_max:
        raise SettingError(
            f"t_min={t_min} is above t_max={t_max} (the checkpoint's own are {defaults.t_min} "
            f"and {defaults.t_max}). Set both."
        )
    return Request(
        prompt_ids=prompt_ids,
        tools=tools,
        settings=settings,
        max_tokens=settle_max_tokens(settings, len(prompt_ids), canvas, context),
        seed=settle_seed(settings),
    )

"""The neutral words of a conversation: what goes into a request and what comes out.

Framework adapters translate their own messages into these; the chat protocol turns these
into prompt ids. Everything here is frozen and plain Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dgemma_backend.errors import PromptError, SettingError

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]
ToolChoiceMode = Literal["auto", "none", "required", "named"]
FormatKind = Literal["json_schema", "regex", "choices"]
Unsupported = Literal["raise", "validate"]

ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Text:
    """A piece of text inside a message."""

    text: str


@dataclass(frozen=True)
class Image:
    """An image inside a message: its encoded bytes (PNG, JPEG or WebP), never an address."""

    data: bytes = field(repr=False)
    media_type: str = "image/png"


Part = Text | Image


@dataclass(frozen=True)
class ToolCall:
    """One finished call of a tool by the model; `arguments` is plain JSON data."""

    id: str
    name: str
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        if _is_blank(self.name):
            raise PromptError(f"a tool call needs the name of its tool, got {self.name!r}")
        if not isinstance(self.arguments, Mapping):
            raise PromptError(
                f"the arguments of the call of {self.name!r} must be a mapping, got "
                f"{type(self.arguments).__name__}. Decode a JSON string first: json.loads(...)."
            )


@dataclass(frozen=True)
class InvalidToolCall:
    """A call the model began and did not finish properly; `raw` is its text as it stood."""

    id: str
    name: str | None
    raw: str
    error: str


@dataclass(frozen=True)
class Tool:
    """A tool the model may call. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if _is_blank(self.name):
            raise PromptError(f"a tool needs a name, got {self.name!r}")
        if not isinstance(self.parameters, Mapping):
            raise PromptError(
                f"the parameters of tool {self.name!r} must be a JSON schema (a mapping), got "
                f"{type(self.parameters).__name__}"
            )


@dataclass(frozen=True)
class ToolChoice:
    """Whether the model may, must not, or must call a tool, and which.

    With `parallel=False` an answer holds one call at the most.
    """

    mode: ToolChoiceMode = "auto"
    name: str | None = None
    parallel: bool = True

    def __post_init__(self) -> None:
        if self.mode not in get_args(ToolChoiceMode):
            raise SettingError(
                f"tool choice mode {self.mode!r} does not exist; there are "
                f"{', '.join(get_args(ToolChoiceMode))}"
            )
        if (self.mode == "named") != (self.name is not None):
            raise SettingError(
                f"tool choice mode {self.mode!r} with name {self.name!r}: a name goes with mode "
                "'named' and with no other. Use ToolChoice.named('some_tool')."
            )
        if not isinstance(self.parallel, bool):
            raise SettingError(f"tool choice parallel={self.parallel!r} must be True or False")

    @classmethod
    def named(cls, name: str, *, parallel: bool = True) -> ToolChoice:
        """Exactly the tool called `name`."""
        return cls("named", name, parallel)


@dataclass(frozen=True)
class ResponseFormat:
    """What the text of an answer is guaranteed to be; thoughts before it are free.

    Made by `json_schema`, `json`, `regex` or `choices`. Beside tools, an answer is either calls
    or a text of this format.
    """

    kind: FormatKind
    value: Any
    on_unsupported: Unsupported = "raise"

    def __post_init__(self) -> None:
        fits = {
            "json_schema": not isinstance(self.value, str | bytes | None),
            "regex": isinstance(self.value, str),
            "choices": isinstance(self.value, tuple),
        }
        if not fits.get(self.kind, False):
            raise SettingError(
                f"a response format of kind {self.kind!r} cannot be {self.value!r:.80}. Use "
                "ResponseFormat.json_schema({...}), .regex('...') or .choices(['...', '...'])."
            )

    @classmethod
    def json_schema(cls, schema: Any, *, on_unsupported: Unsupported = "raise") -> ResponseFormat:
        """JSON that a schema accepts: a mapping, or a type that pydantic knows.

        A keyword that decoding cannot guarantee raises UnsupportedSchemaError at the request;
        with `on_unsupported="validate"` it is checked in the finished answer instead, which is
        written anew up to twice.
        """
        if on_unsupported not in get_args(Unsupported):
            known = " or ".join(map(repr, get_args(Unsupported)))
            raise SettingError(f"on_unsupported={on_unsupported!r} must be {known}")
        return cls("json_schema", schema, on_unsupported)

    @classmethod
    def json(cls) -> ResponseFormat:
        """Any JSON object."""
        return cls("json_schema", {"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> ResponseFormat:
        """Text that a regular expression matches from its beginning to its end."""
        return cls("regex", pattern)

    @classmethod
    def choices(cls, texts: Sequence[str]) -> ResponseFormat:
        """One of these texts."""
        return cls("choices", texts if isinstance(texts, str) else tuple(texts))


@dataclass(frozen=True)
class Message:
    """One turn, or one tool result, of a conversation.

    `content` is a string or a tuple of parts; None stands for a tool that returned nothing.
    `tool_calls` and `reasoning` belong to the assistant, `tool_call_id` and `name` (the tool's
    name) to a tool result. Raises PromptError for a role or content that does not exist.
    """

    role: Role
    content: str | tuple[Part, ...] | None = ""
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise PromptError(f"role {self.role!r} does not exist; there are {', '.join(ROLES)}")
        if not _is_content(self.content):
            raise PromptError(
                f"the content of a {self.role} message must be a string or a tuple of Text and "
                f"Image parts, got {self.content!r:.120}"
            )
        if self.tool_calls and self.role != "assistant":
            raise PromptError(f"only an assistant message has tool calls, not a {self.role} one")

    @property
    def text(self) -> str:
        """All text of the message, parts joined with nothing between."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if isinstance(part, Text))

    @classmethod
    def system(cls, content: str | Sequence[Part]) -> Message:
        """Instructions that stand above the conversation."""
        return cls("system", _frozen(content))

    @classmethod
    def user(cls, content: str | Sequence[Part]) -> Message:
        """What the user says."""
        return cls("user", _frozen(content))

    @classmethod
    def assistant(
        cls,
        content: str | Sequence[Part] = "",
        *,
        tool_calls: Sequence[ToolCall] = (),
        reasoning: str | None = None,
    ) -> Message:
        """What the model said, thought and called."""
        return cls("assistant", _frozen(content), tuple(tool_calls), reasoning)

    @classmethod
    def tool(
        cls,
        content: str | Sequence[Part] | None,
        *,
        tool_call_id: str | None = None,
        name: str | None = None,
    ) -> Message:
        """What a tool answered to the call `tool_call_id`."""
        frozen = None if content is None else _frozen(content)
        return cls("tool", frozen, tool_call_id=tool_call_id, name=name)


@dataclass(frozen=True)
class UnsafeRawPrompt:
    """A whole prompt spelt out by hand, control tokens and all, in place of messages.

    The only way around the separation of text and control tokens: whoever writes any part of
    `text` can end turns, forge tool results and speak as the system. `<bos>` is put in front
    where it is missing.
    """

    text: str

    def __post_init__(self) -> None:
        if _is_blank(self.text):
            raise PromptError(f"a raw prompt must be a text that says something, got {self.text!r}")


def _is_blank(value: object) -> bool:
    return not isinstance(value, str) or not value.strip()


def _is_content(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(part, Text | Image) for part in value)
    return value is None or isinstance(value, str)


def _frozen(content: str | Sequence[Part]) -> str | tuple[Part, ...]:
    return content if isinstance(content, str) else tuple(content)


@dataclass(frozen=True)
class Usage:
    """What a request cost. Times are in seconds of wall clock.

    `cached_tokens` of the prompt were not encoded, their keys and values being known already.
    `completion_tokens` counts committed tokens, reasoning and control tokens included, and never
    what lies behind the cut in the last canvas. `canvases` and `denoising_steps` include those
    that were `rerolled`: thrown away because the answer would have said nothing, or because it
    failed the check of its format. `tokens_per_forward` is completion tokens divided by denoising
    steps.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    canvases: int = 0
    denoising_steps: int = 0
    tokens_per_forward: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    first_text_seconds: float = 0.0
    cached_tokens: int = 0
    rerolled: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Reply:
    """The whole answer to a request.

    `cut_in_thought`: it ran out of tokens while the model was still thinking.
    """

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    invalid_tool_calls: tuple[InvalidToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    seed: int
    model: str
    cut_in_thought: bool = False

    @property
    def message(self) -> Message:
        """The answer as an assistant message, to be put back into the conversation."""
        return Message.assistant(
            self.text, tool_calls=self.tool_calls, reasoning=self.reasoning or None
        )

"""What the checks ask a model for, and what they may know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel


class Song(BaseModel):
    """A song."""

    title: str
    year: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def roll_die(sides: int) -> int:
    """Roll a die."""
    return sides


ADD = FunctionTool.from_defaults(add)
ROLL = FunctionTool.from_defaults(roll_die)


class Asked:
    """What a subclass says about its model. Only `make` is needed; the rest has defaults.

    A prompt that is None says that the model cannot be brought to that; its checks are skipped.
    """

    text_prompt: ClassVar[str] = "Tell me something."
    """Answered with text of several chunks."""
    other_prompt: ClassVar[str] = "Who are you?"
    """Answered with another text."""
    long_prompt: ClassVar[str] = "Tell me a long story."
    """Answered with text of at least ten chunks."""
    call_prompt: ClassVar[str | None] = "Call add with a 1 and b 2."
    """Answered with one call, add(a=1, b=2)."""
    untyped_prompt: ClassVar[str | None] = "Call add with texts."
    """Answered with the call add(a="1", b="2"), numbers as strings."""
    twice_prompt: ClassVar[str | None] = "Roll a die with 6 sides twice."
    """Answered with two calls, both roll_die(sides=6)."""
    song_prompt: ClassVar[str | None] = "Make a song of {topic}."
    """Answered with a `Song`."""
    raw_prompt: ClassVar[str] = "Once upon a time"
    """What `complete(..., formatted=True)` is given."""
    repeatable: ClassVar[Mapping[str, Any]] = {"temperature": 0, "seed": 0}
    """Arguments of a call that make the same prompt give the same answer."""
    thinking: ClassVar[Mapping[str, Any] | None] = {"thinking": True}
    """Arguments of `make` for an LLM that thinks."""
    secrets: ClassVar[tuple[str, ...]] = ()
    """Values given to `make` that nobody may see."""
    slow: ClassVar[Mapping[str, Any]] = {}
    """Arguments of `make` for an LLM whose long answer takes at least 0.2 s."""

    def make(self, **settings: Any) -> FunctionCallingLLM:
        """A new LLM. `settings` are arguments of its class, `system_prompt` for one."""
        raise NotImplementedError("say how to make the LLM")

    def sent(self) -> str:
        """What the model was last sent, as text: the prompt, or the request to its server."""
        _lacks("sent")

    def work_done(self) -> int:
        """Steps of work the model has done so far."""
        _lacks("work_done")

    def weights(self, llm: FunctionCallingLLM) -> object:
        """What of the LLM is too big to be copied."""
        _lacks("weights")

    @pytest.fixture
    def llm(self) -> FunctionCallingLLM:
        """An LLM with default settings."""
        return self.make()

    def ask(self, llm: FunctionCallingLLM, prompt: str) -> str:
        """The text of the repeatable answer to a prompt."""
        return llm.chat([user(prompt)], **self.repeatable).message.content or ""


def user(text: str) -> ChatMessage:
    """A user's message."""
    return ChatMessage(role="user", content=text)


def needed(prompt: str | None) -> str:
    """The prompt, or a skip where the model cannot be brought to it."""
    if prompt is None:
        pytest.skip("the model cannot be brought to this")
    return prompt


def _lacks(name: str) -> NoReturn:
    pytest.skip(f"the subclass does not say `{name}`")


def accepts(call: Callable[[], object]) -> bool:
    """Whether a call raises nothing."""
    try:
        call()
    except Exception:  # noqa: BLE001 - any refusal will do
        return False
    return True

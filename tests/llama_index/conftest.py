"""A model that is a function: it answers as a well-behaved model would, whatever it is asked."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from inspect import iscoroutinefunction
from typing import Any

import pytest
from llama_index.core import Settings

from dgemma_backend import Message, ScriptedEngine, ToolCall
from dgemma_backend.chat.protocol import REQUIRED_CONTROLS
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.runtime.request import Request
from llama_index.llms.dgemma import DiffusionGemma

CANVAS = 7  # tokens; a token is a byte here, so borders fall into words, calls and characters
SONG = {"title": "Blaues Flüstern", "year": 1987}
STORY = " ".join(f"On day {day} the café at № {day} stayed shut." for day in range(1, 31))
THOUGHT = "Which way is it? Über the hill, I think."


def byte_tokenizer() -> ChatTokenizer:
    """Control tokens, and one token for every byte."""
    pieces = [*REQUIRED_CONTROLS, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": vocab[name], "content": name, "special": True, **flags}
        for name in (*REQUIRED_CONTROLS, "<unk>")
    ]
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
    return ChatTokenizer(
        {
            "version": "1.0",
            "added_tokens": added,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
            "model": {**model, "vocab": vocab, "merges": []},
        }
    )


TOKENIZER = byte_tokenizer()


def good_model(request: Request) -> Message:
    """The answer to a request; tool choice and response format are kept to, as a model must."""
    thought = THOUGHT if request.settings.thinking else None
    if request.response_format is not None:
        return Message.assistant(json.dumps(SONG, ensure_ascii=False), reasoning=thought)
    calls = called(request)
    if calls:
        return Message.assistant("", tool_calls=calls, reasoning=thought)
    return Message.assistant(said(request.messages), reasoning=thought)


def called(request: Request) -> list[ToolCall]:
    choice, asked = request.tool_choice, last_text(request.messages)
    names = [tool.name for tool in request.tools]
    wishes: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "Call add with a 1": [("add", {"a": 1, "b": 2})],
        "Call add with texts": [("add", {"a": "1", "b": "2"})],
        "twice": [("roll_die", {"sides": 6})] * 2,
    }
    calls = next((calls for words, calls in wishes.items() if words in asked), [])
    calls = [(name, arguments) for name, arguments in calls if name in names]
    if choice is not None and choice.mode == "named" and choice.name:
        calls = [(choice.name, {})]
    if choice is not None and choice.mode == "required" and not calls:
        calls = [(names[0], {})]
    if choice is not None and not choice.parallel:
        calls = calls[:1]
    return [ToolCall("", name, arguments) for name, arguments in calls]


def said(messages: Sequence[Message]) -> str:
    asked = last_text(messages)
    if messages and messages[-1].role == "tool":
        return f"The result is {asked}."
    return STORY if "long" in asked else f"You said: {asked} — schön, thanks for telling me."


def last_text(messages: Sequence[Message]) -> str:
    return messages[-1].text if messages else "a raw prompt"


def make_engine(
    script: Any = good_model, *, canvas: int = CANVAS, **options: Any
) -> ScriptedEngine:
    options = {"context_length": 100_000, "tokenizer": TOKENIZER, **options}
    return ScriptedEngine(script, canvas_length=canvas, **options)


@pytest.fixture(autouse=True)
def _settings_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test puts into LlamaIndex's global settings is gone behind it."""
    for name in ("_llm", "_embed_model", "_tokenizer", "_prompt_helper", "_callback_manager"):
        monkeypatch.setattr(Settings, name, getattr(Settings, name))


@pytest.fixture(autouse=True)
def _loop_that_is_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests that are not async get a loop: LlamaIndex would make one and leave it open."""
    if iscoroutinefunction(request.function):
        yield
        return
    with closing(asyncio.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        yield
        asyncio.set_event_loop(None)


@pytest.fixture
def new_engine() -> Callable[..., ScriptedEngine]:
    """Makes a scripted engine, over bytes and short canvases."""
    return make_engine


@pytest.fixture
def engine() -> ScriptedEngine:
    """The well-behaved model."""
    return make_engine()


@pytest.fixture
def llm(engine: ScriptedEngine) -> DiffusionGemma:
    """The adapter over the well-behaved model."""
    return DiffusionGemma(engine=engine)


class InTurn:
    """A script: gives these answers one after another. Each is a message or pieces of text."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)

    def __call__(self, request: Request) -> Any:
        return next(self.answers)


@pytest.fixture
def in_turn() -> type[InTurn]:
    """Makes a script of answers given one after another."""
    return InTurn

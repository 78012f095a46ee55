"""Random conversations render like the published template, where its file is at hand.

Name it in DGEMMA_CHAT_TEMPLATE, or have `trl` (which ships it) installed; it is not part of this
repository. Only inputs for which the template is well formed are compared.
"""

import hashlib
import importlib.util
import os
import random
import string
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.segments import segments_to_text
from dgemma_backend.chat.template_file import PUBLISHED, TEMPLATE_FILE, template_warning
from dgemma_backend.messages import Image, Message, Part, Text, Tool, ToolCall

CONVERSATIONS = 300 * int(os.environ.get("DGEMMA_CHAT_TIMES", "1"))
WORDS = ["the", "a b", " padded ", "über", "日本", "x\ny", "", "{k:1}", "it's", '"q"', "\n", "😀"]


@pytest.fixture(scope="module")
def template() -> str:
    path = Path(os.environ.get("DGEMMA_CHAT_TEMPLATE", ""))
    trl = importlib.util.find_spec("trl")
    if not path.is_file() and trl is not None and trl.origin is not None:
        path = Path(trl.origin).parent / "chat_templates/diffusion_gemma.jinja"
    if not path.is_file():
        pytest.skip("no template file at hand: DGEMMA_CHAT_TEMPLATE names none")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if PUBLISHED.get(digest[:8]) != "diffusiongemma-hub":
        pytest.skip(f"{path} is not the checkpoint's own template")
    return path.read_text()


class Conversations:
    """Makes conversations in our words; the template's words are made of those."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.calls = 0

    def text(self) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randrange(1, 5)))

    def name(self) -> str:
        return "".join(self.rng.choices(string.ascii_letters + "_", k=5))

    def value(self, depth: int = 0) -> Any:
        kinds: list[Any] = [
            None,
            self.text(),
            self.rng.randrange(-5, 99),
            self.rng.random() < 0.5,
            1.5,
        ]
        if depth < 3:
            kinds.append([self.value(depth + 1) for _ in range(self.rng.randrange(3))])
            kinds.append({self.name(): self.value(depth + 1) for _ in range(self.rng.randrange(3))})
        return self.rng.choice(kinds)

    def schema(self, depth: int = 0) -> dict[str, Any]:
        kind = self.rng.choice(["string", "integer", "number", "boolean", "array", "object"])
        schema: dict[str, Any] = {"type": kind}
        if self.rng.random() < 0.6:
            schema["description"] = self.text() or "d"
        if self.rng.random() < 0.2:
            schema["nullable"] = True
        if kind == "string" and self.rng.random() < 0.5:
            schema["enum"] = [self.name(), self.text()]
        if kind == "array":
            schema["items"] = self.schema(depth + 1) if depth < 2 else {"type": "string"}
        if kind == "object":
            names = [self.name() for _ in range(self.rng.randrange(3 if depth < 2 else 1))]
            schema["properties"] = {name: self.schema(depth + 1) for name in names}
            if names and self.rng.random() < 0.5:
                schema["required"] = names[:1]
        return schema

    def tool(self) -> Tool:
        names = [self.name() for _ in range(self.rng.randrange(4))]
        parameters: dict[str, Any] = {
            "type": "object",
            "properties": {name: self.schema() for name in names},
            "required": names[: self.rng.randrange(2)],
        }
        return Tool(self.name(), self.text(), parameters if self.rng.random() < 0.9 else {})

    def content(self) -> str | tuple[Part, ...]:
        if self.rng.random() < 0.7:
            return self.text()
        parts: list[Part] = [Text(self.text()) for _ in range(self.rng.randrange(1, 3))]
        if self.rng.random() < 0.3:
            parts.insert(0, Image(b""))
        return tuple(parts)

    def reasoning(self) -> str | None:
        return self.text() + "." if self.rng.random() < 0.4 else None

    def messages(self) -> list[Message]:
        found = [Message("system", self.text())] if self.rng.random() < 0.4 else []
        for _ in range(self.rng.randrange(1, 4)):
            found += [Message("user", self.content()) for _ in range(self.rng.choice((1, 1, 2)))]
            for _ in range(self.rng.choice((0, 0, 1, 2))):
                found += self.tool_turn()
            if self.rng.random() < 0.6:
                # an assistant text that strips to nothing leaves the template's turn open
                found.append(Message.assistant(self.text() + "!", reasoning=self.reasoning()))
            elif self.rng.random() < 0.1:
                found.append(Message.system(self.text()))
        return found

    def tool_turn(self) -> list[Message]:
        calls = []
        for _ in range(self.rng.choice((1, 1, 2))):
            self.calls += 1
            arguments = {self.name(): self.value() for _ in range(self.rng.randrange(4))}
            calls.append(ToolCall(f"c{self.calls}", self.name(), arguments))
        results = [Message.tool(self.text(), tool_call_id=call.id) for call in calls]
        return [Message.assistant(tool_calls=calls, reasoning=self.reasoning()), *results]


def in_their_words(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if isinstance(content, tuple):
        content = [
            {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": part.text}
            for part in content
        ]
    theirs: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        theirs["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.reasoning:
        theirs["reasoning_content"] = message.reasoning
    if message.tool_call_id:
        theirs["tool_call_id"] = message.tool_call_id
    return theirs


def test_random_conversations_render_like_the_published_template(
    toy_protocol: Gemma4Protocol, template: str
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = Conversations(5)
    for number in range(CONVERSATIONS):
        messages = source.messages()
        tools = [source.tool() for _ in range(source.rng.choice((0, 0, 1, 3)))]
        thinking, ask = number % 2 == 1, number % 5 != 0
        declared = [
            {"type": "function",
             "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
            for t in tools
        ]  # fmt: skip
        (theirs,), _ = render_jinja_template(
            conversations=[[in_their_words(each) for each in messages]],
            tools=declared or None,
            chat_template=template,
            add_generation_prompt=ask,
            bos_token="<bos>",
            enable_thinking=thinking,
        )
        segments = toy_protocol.segments(messages, tools, thinking=thinking, generation_prompt=ask)
        assert segments_to_text(segments) == theirs, (messages, tools)


def test_a_known_template_file_and_none_at_all_are_no_reason_to_warn(
    template: str, tmp_path: Path
) -> None:
    assert template_warning(tmp_path) is None
    (tmp_path / TEMPLATE_FILE).write_text(template)
    assert template_warning(tmp_path) is None


def test_an_unknown_template_file_is_named_and_never_run(tmp_path: Path) -> None:
    (tmp_path / TEMPLATE_FILE).write_text("{{ cycler.__init__.__globals__.os.system('false') }}")
    warning = template_warning(tmp_path)
    assert warning is not None
    assert str(tmp_path / TEMPLATE_FILE) in warning
    assert "is not one of the chat templates" in warning
    (tmp_path / TEMPLATE_FILE).write_bytes(b" " * (1 << 20) + b" ")
    assert "more than 1048576" in str(template_warning(tmp_path))

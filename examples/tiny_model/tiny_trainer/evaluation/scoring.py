"""When an answer counts as right."""

from __future__ import annotations

import json
from collections.abc import Callable

from dgemma_backend.messages import Reply
from tiny_trainer.examples import Example

Scoring = Callable[[Example, Reply], bool]


def exact(example: Example, reply: Reply) -> bool:
    """Exactly the expected text, or exactly the expected calls and no text beside them.

    A thought that nobody asked for is wrong.
    """
    if reply.reasoning and not example.thinking:
        return False
    calls = [(call.name, dict(call.arguments)) for call in reply.tool_calls]
    if isinstance(example.answer, str):
        return reply.text == example.answer and not calls
    expected = [(call.name, dict(call.arguments)) for call in example.answer]
    return calls == expected and not reply.text.strip()


def no_call(example: Example, reply: Reply) -> bool:
    """No tool is called, whatever is said."""
    return not reply.tool_calls and bool(reply.text.strip())


def thought_then_exact(example: Example, reply: Reply) -> bool:
    """There is a thought, and the answer after it is right."""
    return bool(reply.reasoning) and exact(example, reply)


def expected(example: Example) -> str:
    """The expected answer as one line."""
    if isinstance(example.answer, str):
        return example.answer
    return "; ".join(f"{call.name} {json.dumps(dict(call.arguments))}" for call in example.answer)


def given(reply: Reply) -> str:
    """A reply as one line."""
    calls = [f"{call.name} {json.dumps(dict(call.arguments))}" for call in reply.tool_calls]
    return "; ".join([*([reply.text] if reply.text else []), *calls])

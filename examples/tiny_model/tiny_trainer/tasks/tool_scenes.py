"""Conversations under declared tools: calls, refusals, responses, errors, two calls, loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import factorial
from random import Random

from dgemma_backend.messages import Message, Tool, ToolCall
from tiny_trainer.examples import Example, one_of, say
from tiny_trainer.tasks.tool_making import (
    TRAINING_WORDINGS,
    Kit,
    ToolWordings,
    Use,
    known_kit,
    made_up_kit,
    mid_sentence,
)
from tiny_trainer.words import Words

NO_TOOL = "I have no tool for that."
FAILED = "That did not work: {reason}."
WITHOUT_TOOL = (
    ("[Thanks|Thank you|Thank you very much|Many thanks][!|.|]", "You are welcome."),
    ("[Hi there|Hey there|Good morning|Good evening][!|.|]", "Hi! What can I do for you?"),
    (
        "[What can you do|What can you help with|How can you help me]?",
        "I can call tools, read a short text and chat a little.",
    ),
)


@dataclass(frozen=True)
class SceneWordings:
    """What goes around single requests: `both` joins two, over `{first}`, `{second}`,
    `{small}`; `loops` has two or three steps, over `{arguments}` and the tools' names; `errors`
    are over `{reason}` and `{number}`."""

    tools: ToolWordings
    both: tuple[str, ...]
    loops: tuple[str, ...]
    errors: tuple[str, ...]


TRAINING_SCENES = SceneWordings(
    tools=TRAINING_WORDINGS,
    both=(
        "{first} {second}",
        "{first} And {small}",
        "{first} [Then|Also|After that|And then], {small}",
        "[Do two things|Two things][.|:] {first} {second}",
        "1. {first}\n2. {second}",
        "{first}\n{second}",
        "{first} [I also have this|One more|Another thing|Second][.|:] {second}",
        "[Please do both|Both of these][:|.] {first} {second}",
        "{first} - {small}",
        "(1) {first} (2) {second}",
    ),
    loops=(
        "[First |]{first} with {arguments}, then {second} with the result[, then {third} with that "
        "result|].",
        "[Call|Use|Run] {first} with {arguments}. [Give|Pass|Send] [the result|what it says] to "
        "{second}[ and then the result of that to {third}|].",
        "[Start with|Begin with] {first}, {arguments}. [Then|Next] [call|use] {second} on the "
        "result[. Then {third} on the new result|].",
        "{first} ({arguments}) -> {second}[ -> {third}|]",
        "[I need|We want] {arguments} [to go|sent] through {first}, then {second}[, then "
        "{third}|].",
        "[Ask|Try] {first} with {arguments}; [ask|try] {second} with the [answer|response]"
        "[; ask {third} with that answer|].",
        "[After|When] {first} with {arguments}, {second} [gets|takes] the result[, and "
        "{third} the next "
        "result|].",
        "Put {arguments} into {first}, [its result|the result] into {second}[, and that into "
        "{third}|].",
    ),
    errors=(
        "[Error|error|ERROR]: {reason}",
        "Error {number}: {reason}",
        "[Failed|Failure|failed]: {reason}",
        "[Exception|Problem]: {reason}",
    ),
)


def declared_kits(
    wordings: ToolWordings, count: int, rng: Random, words: Words, renamed: float = 0.5
) -> list[Kit]:
    """`count` tools of different names and meanings, known and made up."""
    kits: dict[str, Kit] = {}
    while len(kits) < count:
        known = rng.random() < 0.45
        kit = (
            known_kit(wordings, rng, words, renamed) if known else made_up_kit(wordings, rng, words)
        )
        if all(kit.meaning != each.meaning for each in kits.values()):
            kits[kit.tool.name] = kit
    return list(kits.values())


def calling(tools: Sequence[Tool], use: Use, system: str | None) -> Example:
    """The request of a use, answered by its call."""
    return Example(
        "tool_call",
        _messages(system, use.request),
        (use.call,),
        tools=tuple(tools),
        candidates=len(tools),
        values=len(tools) * factorial(len(use.call.arguments)),
    )


def refusing(tools: Sequence[Tool], use: Use, system: str | None) -> Example:
    """The request of a use whose tool is not declared."""
    return Example("no_tool", _messages(system, use.request), NO_TOOL, tools=tuple(tools))


def answering(before: Example, use: Use) -> Example:
    """The same conversation after its response, which the answer says."""
    return replace(
        before,
        task="tool_response",
        messages=(*before.messages, *_step(use.call, use.result)),
        answer=use.answer,
        candidates=1,
        values=1 + len(use.call.arguments),
    )


def failing(
    before: Example, use: Use, wordings: SceneWordings, rng: Random, words: Words
) -> Example:
    """The same conversation after an error, whose reason the answer gives."""
    reason = words.phrase(rng, 1, 5)
    error = one_of(wordings.errors, rng, reason=reason, number=words.integer(rng, 100, 599))
    return replace(
        before,
        task="tool_error",
        messages=(*before.messages, *_step(use.call, error)),
        answer=say(FAILED, rng, reason=reason),
        candidates=1,
        values=1 + len(use.call.arguments),
    )


def two_calls(
    kits: Sequence[Kit], wordings: SceneWordings, system: str | None, rng: Random, words: Words
) -> Example:
    """Two requests at once, answered by two calls in their order."""
    first, second = (rng.choice(kits).use(rng, words) for _ in range(2))
    small = mid_sentence(second.request)
    request = one_of(wordings.both, rng, first=first.request, second=second.request, small=small)
    tools = tuple(kit.tool for kit in kits)
    calls = (first.call, replace(second.call, id="call_1"))
    return Example(
        "two_calls", _messages(system, request), calls, tools=tools, candidates=len(tools) ** 2
    )


def loop(
    wordings: SceneWordings, steps: int, extra: int, rng: Random, words: Words
) -> tuple[Example, ...]:
    """A chain of tools, each called with the result before it; one example a step."""
    template = rng.choice([each for each in wordings.loops if steps == 2 or "{third}" in each])
    template = _of_length(template, steps)
    kits = declared_kits(wordings.tools, steps + extra, rng, words, 1.0)
    chain = [_taking_text(kit, rng, words) for kit in kits[:steps]]
    text = words.given_name(rng) if rng.random() < 0.5 else words.code(rng)
    names = dict(zip(("first", "second", "third"), (each.name for each in chain), strict=False))
    request = say(template, rng, arguments=f'"{text}"', **names)
    tools = [*chain, *(kit.tool for kit in kits[steps:])]
    rng.shuffle(tools)
    messages, examples = list(_messages(None, request)), []
    for number, tool in enumerate(chain):
        (key,) = tool.parameters["properties"]
        call = ToolCall(f"call_{number}", tool.name, {key: text})
        examples.append(
            Example(
                "tool_loop", tuple(messages), (call,), tools=tuple(tools), candidates=len(tools)
            )
        )
        text = str(rng.choice((words.city, words.code, words.given_name))(rng))
        messages += _step(call, text)
    done = f"The result is {text}."
    examples.append(
        Example("tool_loop", tuple(messages), done, tools=tuple(tools), values=steps + 1)
    )
    return tuple(examples)


def _of_length(template: str, steps: int) -> str:
    """Take the choice that names a third tool, or the empty one."""
    before, _, rest = template.rpartition("[")
    return (
        before
        + rest.removesuffix(".").removesuffix("]").split("|")[0 if steps == 3 else 1]
        + ("." if template.endswith(".") else "")
    )


def _taking_text(kit: Kit, rng: Random, words: Words) -> Tool:
    key = words.made_up(rng) if rng.random() < 0.5 else rng.choice(("text", "value", "input"))
    schema = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    return Tool(kit.tool.name, kit.tool.description, schema)


def _step(call: ToolCall, result: str) -> list[Message]:
    return [
        Message.assistant(tool_calls=(call,)),
        Message.tool(result, tool_call_id=call.id, name=call.name),
    ]


def _messages(system: str | None, request: str) -> tuple[Message, ...]:
    user = Message.user(request)
    return (user,) if system is None else (Message.system(system), user)


def training_tools(rng: Random, words: Words) -> tuple[Example, ...]:
    """One set of declarations and several requests under it."""
    if rng.random() < 0.1 * words.level:
        return loop(TRAINING_SCENES, rng.choice((2, 3, 3)), rng.choice((0, 0, 1)), rng, words)
    count = rng.choice((1, 1, 2, 2, 3, 4)) if rng.random() < words.level else rng.choice((1, 2))
    kits = declared_kits(TRAINING_WORDINGS, count + 1, rng, words)
    absent, kits = kits[-1], kits[:-1]
    tools = tuple(kit.tool for kit in kits)
    system = one_of(words.prompts, rng) if rng.random() < 0.2 else None
    examples: list[Example] = []
    for _ in range(rng.randint(3, 5)):
        kind = rng.random()
        if kind < 0.14:
            examples.append(refusing(tools, absent.use(rng, words), system))
        elif kind < 0.18:
            asked, answer = rng.choice(WITHOUT_TOOL)
            examples.append(
                Example("no_tool", _messages(system, say(asked, rng)), answer, tools=tools)
            )
        elif kind < 0.28:
            examples.append(two_calls(kits, TRAINING_SCENES, system, rng, words))
        else:
            use = rng.choice(kits).use(rng, words)
            call = calling(tools, use, system)
            examples.append(call)
            if rng.random() < 0.3:
                failed = rng.random() < 0.35
                examples.append(
                    failing(call, use, TRAINING_SCENES, rng, words)
                    if failed
                    else answering(call, use)
                )
    return tuple(examples)

"""Calling a declared tool with arguments copied from the request, and answering its response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import factorial
from random import Random

from dgemma_backend.messages import Message, Tool, ToolCall
from tiny_trainer.examples import (
    Example,
    disturbed,
    one_of,
    say,
    starting_large,
    starting_small,
    with_system,
)
from tiny_trainer.tasks.tool_kit import KNOWN_TOOLS, Argument, declare
from tiny_trainer.words import Words, spell


@dataclass(frozen=True)
class ToolWordings:
    """How tools are asked for: `known` by name of a known tool, `named` over `{tool}` and
    `{arguments}` for tools that exist nowhere else, whose names are made of the three pools."""

    known: Mapping[str, tuple[str, ...]]
    named: tuple[str, ...]
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    argument_names: tuple[str, ...]


TRAINING_WORDINGS = ToolWordings(
    known={tool.name: tool.requests for tool in KNOWN_TOOLS},
    named=(
        "[Use|Call|Run|Please use|Please call] [the tool |the function |]{tool} with {arguments}.",
        "[Use|Call|Run] {tool}[:| with| for] {arguments}[ please|].",
        "[Call|Run|Use] [the tool |]{tool}, {arguments}.",
        "[I need|I want|Can you make] a call of {tool} with {arguments}.",
    ),
    verbs=tuple(
        "get make open start check read list show move load save build update create remove "
        "fetch".split()
    ),
    nouns=tuple(
        "user file page order room report task record account project server job image price "
        "route".split()
    ),
    argument_names=tuple(
        "id name key value label owner group level size target source code".split()
    ),
)
NAMED_SHARE = 0.35
NAMED_ANSWER = "The result is {result}."
_SMALL_AFTER_GREETING = frozenset(
    "Find Look Search Get Do Can Where On Send Write Give Tell Please Let A This Book Reserve We "
    "Convert Change Turn How What There Wake Set Make Put Could Will Play Start Track Check Follow "
    "When The My Is Add Enter Next Switch It Light Count Translate Read Order Buy".split()
)
POLITE = ("{request}", "{request}", "{request}", "[Hi|Hey], {small}", "Please help: {small}")
WITHOUT_TOOL = (
    ("[Thanks|Thank you|Thank you very much|Many thanks][!|.|]", "You are welcome."),
    ("[Hi there|Hey there|Good morning|Good evening][!|.|]", "Hi! What can I do for you?"),
    (
        "[What can you do|What can you help with|How can you help me]?",
        "I can call tools, read a short text and chat a little.",
    ),
)


def training_call(rng: Random, words: Words) -> Example:
    """`tool_call` in the wordings of the training data; now and then nothing is to be called."""
    if rng.random() < 0.06:
        return _no_call(rng)
    return tool_call(TRAINING_WORDINGS, rng, words, rng.random() < NAMED_SHARE)


def training_response(rng: Random, words: Words) -> Example:
    """`tool_response` in the wordings of the training data."""
    return tool_response(TRAINING_WORDINGS, rng, words, rng.random() < NAMED_SHARE)


def tool_call(
    wordings: ToolWordings, rng: Random, words: Words, named: bool, two_tools: float = 0.3
) -> Example:
    """One or two declared tools, a request, the call. `named`: of a tool never seen before."""
    use = _draw_use(wordings, rng, words, named)
    messages = with_system(rng, [Message.user(use.request)], 0.25)
    tools = _among_others(wordings, rng, use.tool, two_tools)
    orders = factorial(len(use.call.arguments))
    return Example(
        "tool_call",
        messages,
        (use.call,),
        tools=tools,
        candidates=len(tools) * (2 if use.tool.name == "next_train" else 1),
        values=len(tools) * orders,
    )


def tool_response(wordings: ToolWordings, rng: Random, words: Words, named: bool) -> Example:
    """A request, its call and the response; the answer says the response in a sentence."""
    use = _draw_use(wordings, rng, words, named)
    messages = [
        Message.user(use.request),
        Message.assistant(tool_calls=(use.call,)),
        Message.tool(use.result, tool_call_id=use.call.id, name=use.call.name),
    ]
    return Example(
        "tool_response",
        with_system(rng, messages, 0.25),
        use.answer,
        tools=_among_others(wordings, rng, use.tool, 0.15),
        values=1 + len(use.call.arguments),
    )


@dataclass(frozen=True)
class _Use:
    """One use of a tool from request to answer."""

    tool: Tool
    call: ToolCall
    request: str
    result: str
    answer: str


def _draw_use(wordings: ToolWordings, rng: Random, words: Words, named: bool) -> _Use:
    if named:
        return _use_of_made_up_tool(wordings, rng, words)
    known = rng.choice(KNOWN_TOOLS)
    arguments = known.draw_arguments(rng, words)
    template = disturbed(rng.choice(wordings.known[known.name]), rng, words)
    request = say(template, rng, **arguments)
    request = one_of(POLITE, rng, request=request, small=_mid_sentence(request))
    result = str(known.result(rng, words))
    answer = say(known.answer, rng, result=result, **arguments)
    call = ToolCall("call_0", known.name, arguments)
    return _Use(known.declared(rng), call, request, result, answer)


def _mid_sentence(request: str) -> str:
    """The request as it reads after a greeting; names and "I" keep their capital."""
    first = request.split()[0]
    return starting_small(request) if first in _SMALL_AFTER_GREETING else request


def _use_of_made_up_tool(wordings: ToolWordings, rng: Random, words: Words) -> _Use:
    name = made_up_tool(wordings, rng)
    arguments = made_up_arguments(wordings, rng)
    values = {argument.name: argument.draw(rng, words) for argument in arguments}
    shown = [f"{key} {written(value)}" for key, value in values.items()]
    template = disturbed(rng.choice(wordings.named), rng, words)
    request = say(template, rng, tool=name, arguments=" and ".join(shown))
    tool = declare(rng, name, made_up_description(rng, name), arguments)
    draw = rng.choice((words.person, words.city, words.code, lambda r: words.integer(r, 2, 9000)))
    result = str(draw(rng))
    call = ToolCall("call_0", name, values)
    return _Use(tool, call, request, result, say(NAMED_ANSWER, rng, result=result))


def written(value: object) -> str:
    """A value as a request shows it: texts in quotation marks."""
    return f'"{value}"' if isinstance(value, str) else str(value)


def made_up_tool(wordings: ToolWordings, rng: Random) -> str:
    """The name of a tool that exists nowhere else: `open_report`, `brina_task`."""
    verb = spell(rng, rng.choice((1, 2))) if rng.random() < 0.5 else rng.choice(wordings.verbs)
    noun = spell(rng, rng.choice((1, 2))) if rng.random() < 0.4 else rng.choice(wordings.nouns)
    return f"{verb}_{noun}"


def made_up_description(rng: Random, name: str) -> str:
    """A plain description made of the tool's name."""
    verb, noun = name.split("_")
    return starting_large(say("{verb} [a|the|one] {noun}.", rng, verb=verb, noun=noun))


def made_up_arguments(wordings: ToolWordings, rng: Random) -> tuple[Argument, ...]:
    """One or two arguments, of type string or integer, sorted by name."""
    pool = wordings.argument_names
    names = {
        spell(rng, rng.choice((1, 2))) if rng.random() < 0.4 else rng.choice(pool)
        for _ in range(rng.choice((1, 1, 2)))
    }
    return tuple(_made_up_argument(rng, name) for name in sorted(names))


def _made_up_argument(rng: Random, name: str) -> Argument:
    if rng.random() < 0.4:
        return Argument(name, lambda r, w: w.integer(r, 0, 9999), f"The {name}", "integer")
    draw = rng.choice(
        (
            lambda r, w: w.given_name(r),
            lambda r, w: w.city(r),
            lambda r, w: w.code(r),
            lambda r, w: w.phrase(r, 1, 2),
        )
    )
    return Argument(name, draw, f"The {name}")


def _among_others(
    wordings: ToolWordings, rng: Random, tool: Tool, share: float
) -> tuple[Tool, ...]:
    if rng.random() >= share:
        return (tool,)
    other = tool
    while other.name == tool.name:
        other = any_tool(wordings, rng)
    return (tool, other) if rng.random() < 0.5 else (other, tool)


def any_tool(wordings: ToolWordings, rng: Random) -> Tool:
    """Some tool, known or made up."""
    if rng.random() < NAMED_SHARE:
        name = made_up_tool(wordings, rng)
        return declare(rng, name, made_up_description(rng, name), made_up_arguments(wordings, rng))
    return rng.choice(KNOWN_TOOLS).declared(rng)


def _no_call(rng: Random) -> Example:
    asked, answer = rng.choice(WITHOUT_TOOL)
    messages = with_system(rng, [Message.user(say(asked, rng))], 0.25)
    tool = any_tool(TRAINING_WORDINGS, rng)
    return Example(
        "tool_call", messages, answer, tools=_among_others(TRAINING_WORDINGS, rng, tool, 0.3)
    )

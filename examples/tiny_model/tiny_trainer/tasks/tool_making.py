"""Tools to declare: known ones, perhaps under other names, and tools that exist nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from dgemma_backend.messages import Tool, ToolCall
from tiny_trainer.examples import disturbed, jumbled, one_of, say, starting_large, starting_small
from tiny_trainer.tasks.tool_kit import KNOWN_TOOLS, KnownTool, declare
from tiny_trainer.words import COLORS, Words


@dataclass(frozen=True)
class Use:
    """One use of a tool from request to answer."""

    tool: Tool
    call: ToolCall
    request: str
    result: str
    answer: str


@dataclass(frozen=True)
class Kit:
    """A declared tool and how to draw uses of it."""

    tool: Tool
    meaning: tuple[str, ...]  # what it does; no two tools of a request may do the same
    use: Callable[[Random, Words], Use]


@dataclass(frozen=True)
class ToolWordings:
    """How tools are asked for.

    `known` has requests by name of a known tool; `named` is over `{tool}` and `{arguments}`;
    `described` over `{verb}`, `{noun}` and `{arguments}`, `direct` over `{verb}`, `{noun}` and one
    `{value}`. `pairs` are the ways to say one argument, over `{key}` and `{value}`; `polite` what
    may stand around a request, over `{request}` and `{small}`; `descriptions` of made-up tools
    are over `{verb}` and `{noun}`; names of tools and arguments are
    made of the last three pools.
    """

    known: Mapping[str, tuple[str, ...]]
    named: tuple[str, ...]
    described: tuple[str, ...]
    direct: tuple[str, ...]
    pairs: tuple[str, ...]
    polite: tuple[str, ...]
    descriptions: tuple[str, ...]
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
        "{tool}[:|,] {arguments}",
        "With {arguments}, [call|run|use] {tool}.",
        "[Start|Try|Do|Execute|Invoke] {tool}[. It gets|. Its input is|: | and give it] "
        "{arguments}.",
        "[Could you|Would you please|You should] [call|run|use|start] {tool} [on|with|for] "
        "{arguments}[?|.]",
        "{arguments}: [that is|this is] for {tool}.",
        "[Let us|We should|I would like to] [call|use|try] {tool} [now, with|with|giving] "
        "{arguments}.",
        "[The tool|The function] {tool} [should get|needs|takes] {arguments}.",
    ),
    described=(
        "[Please |Can you |]{verb} [the|a|this|my] {noun}[ with|:|,] {arguments}[.| please.]",
        "[I want to|I need to|I must|We have to|Help me] {verb} [the|a|my] {noun}[ with|:|,] "
        "{arguments}.",
        "{verb} {noun}, {arguments}[.|]",
        "[Time to|It is time to|Now] {verb} the {noun}, with {arguments}.",
        "[Could you|Will you|You should|Please do] {verb} [the|this|our|every] {noun}[, "
        "using| by| as]"
        " {arguments}[.|?]",
        "[Let us|We should|They want to|I would like to] {verb} [the|some|this] {noun} "
        "[using|given|"
        "where it is|by] {arguments}.",
        "[Who can|Can anybody|Try to] {verb} the {noun}[?|.] [It is|I have|Given:|Here:] "
        "{arguments}.",
        "{arguments}: {verb} [a|the] {noun} [like that|with it|so].",
    ),
    direct=(
        "[Please |Can you |]{verb} [the|] {noun} {value}[.| please.| now.]",
        "[I want to|I need to|I must|Help me] {verb} [the|] {noun} {value}.",
        "{verb} {noun} {value}",
        "[The|My] {noun} is {value}, {verb} it[ please|].",
        "[Could you|Will you|You should] {verb} [our|this|the|] {noun} {value}[?|.| today?]",
        "[Let us|We should|They want to|I would like to] {verb} [the|a|] {noun} {value}[ "
        "now| again|].",
        "[Who can|Can anybody|Try to] {verb} {value}, the {noun}[?|.]",
        "[With|For] {value} [I want|we need] to {verb} the {noun}.",
    ),
    pairs=(
        "{key} {value}",
        "{key} {value}",
        "{key} = {value}",
        "{key}: {value}",
        "{key} set to {value}",
        "{value} as {key}",
        "{value} for {key}",
        "the {key} {value}",
        "{key} is {value}",
        "{key} should be {value}",
        "{key} -> {value}",
        "{key} ({value})",
        "{value} ({key})",
        "using {value} as the {key}",
        "a {key} of {value}",
        "{value} in {key}",
        "{key} was {value}",
    ),
    polite=("{request}",) * 6 + ("[Hi|Hey], {small}", "Please help: {small}"),
    descriptions=(
        "{verb} [a|the|one|any] {noun}.",
        "{verb} [a|the] {noun}[ of the user| by its name| in the system|].",
        "[Use this to|A tool to|Can] {verb} [a|the] {noun}.",
        "[It|This|The tool] {verb}s [any|your|our] {noun}.",
        "{verb} {noun}",
        "[For|Helps] users who {verb} {noun}s[ or more|].",
    ),
    verbs=tuple(
        "get make open start check read list show move load save build update create remove "
        "fetch count find send book plan clean test draw print lock rent tag pack mail scan "
        "sell buy ask join split share".split()
    ),
    nouns=tuple(
        "user file page order room report task record account project server job image price "
        "route box car door lamp song note label table plan team game box bill shop map card "
        "train parcel photo".split()
    ),
    argument_names=tuple(
        "id name key value label owner group level size target source code count date place "
        "title mode text kind path user number item unit speed".split()
    ),
)
MADE_UP_ANSWER = "The result is {result}."
_SMALL_AFTER_GREETING = frozenset(
    "Find Look Search Get Do Can Where On Send Write Give Tell Please Let A This Book Reserve We "
    "Convert Change Turn How What There Wake Set Make Put Could Will Play Start Track Check Follow "
    "When The My Is Add Enter Next Switch It Light Count Translate Read Order Buy".split()
)


def mid_sentence(request: str) -> str:
    """The request as it reads after a greeting; names and "I" keep their capital."""
    first = request.split()[0]
    return starting_small(request) if first in _SMALL_AFTER_GREETING else request


def known_kit(wordings: ToolWordings, rng: Random, words: Words, renamed: float) -> Kit:
    """A known tool; with probability `renamed` under a made-up name, its description kept.

    Arguments are renamed as well where their types or number leave no doubt which is which.
    """
    known = rng.choice([tool for tool in KNOWN_TOOLS if tool.name in wordings.known])
    rename = rng.random() < renamed
    name = made_up_name(wordings, rng, words) if rename else known.name
    keys = {argument.name: argument.name for argument in known.arguments}
    kinds = {argument.kind for argument in known.arguments}
    if rename and len(kinds) == len(known.arguments) and rng.random() < 0.6:
        fresh = argument_names(wordings, len(keys), rng, words)
        keys = dict(zip(keys, fresh, strict=True))
    declared = tuple(
        type(argument)(keys[argument.name], argument.draw, argument.description, argument.kind)
        for argument in known.arguments
    )
    tool = declare(rng, name, known.description, declared)
    return Kit(tool, (known.name,), lambda r, w: _use_of_known(wordings, known, tool, keys, r, w))


def _use_of_known(
    wordings: ToolWordings,
    known: KnownTool,
    tool: Tool,
    keys: Mapping[str, str],
    rng: Random,
    words: Words,
) -> Use:
    arguments = known.draw_arguments(rng, words)
    template = disturbed(rng.choice(wordings.known[known.name]), rng, words)
    request = say(template, rng, **arguments)
    request = one_of(wordings.polite, rng, request=request, small=mid_sentence(request))
    result = str(known.result(rng, words))
    answer = say(known.answer, rng, result=result, **arguments)
    given = {keys[name]: value for name, value in arguments.items()}
    return Use(tool, ToolCall("call_0", tool.name, given), request, result, answer)


def made_up_kit(wordings: ToolWordings, rng: Random, words: Words, kind: str | None = None) -> Kit:
    """A tool that exists nowhere else, with up to three arguments of any type, or all of one."""
    verb = _part(wordings.verbs, rng, words)
    noun = _part(wordings.nouns, rng, words)
    name = _joined(verb, noun, rng)
    if rng.random() < 0.15:  # only the description says what it does
        name = made_up_name(wordings, rng, words)
    count = rng.choice((1, 1, 1, 2, 2, 3)) if rng.random() < words.level else 1
    draw = typed_value if kind is None else TYPES[kind][1]
    typed = [(key, draw(rng, words)) for key in argument_names(wordings, count, rng, words)]
    description = starting_large(one_of(wordings.descriptions, rng, verb=verb, noun=noun))
    tool = Tool(name, description, _schema(typed, rng))
    meaning = (verb, noun)
    return Kit(tool, meaning, lambda r, w: _use_of_made_up(wordings, tool, meaning, typed, r, w))


def _use_of_made_up(
    wordings: ToolWordings,
    tool: Tool,
    meaning: tuple[str, str],
    typed: list[tuple[str, Typed]],
    rng: Random,
    words: Words,
) -> Use:
    values = {key: kind.draw(rng, words) for key, kind in typed}
    verb, noun = meaning
    quoting = rng.random() < 0.6
    shown = {key: written(value, quoting) for key, value in values.items()}
    if len(values) == 1 and rng.random() < 0.35:
        template = disturbed(rng.choice(wordings.direct), rng, words)
        (value,) = shown.values()
        request = say(template, rng, verb=verb, noun=noun, value=value)
    else:
        pair = rng.choice(wordings.pairs)
        if rng.random() < 0.3 * bool(words.noise):
            pair = jumbled(("{key}", "{value}"), 2, rng, words)
        pairs = [say(pair, rng, key=key, value=value) for key, value in shown.items()]
        rng.shuffle(pairs)
        arguments = rng.choice((", ", " and ", ", ")).join(pairs)
        templates = wordings.named if rng.random() < 0.5 else wordings.described
        template = disturbed(rng.choice(templates), rng, words)
        if rng.random() < 0.15 * bool(words.noise):
            template = jumbled(("{tool}", "{arguments}"), 4, rng, words)
        slots = {"tool": tool.name, "verb": verb, "noun": noun, "arguments": arguments}
        request = say(template, rng, **slots)
    result = str(words.value(rng))
    if not request.startswith(tool.name):
        request = starting_large(request)
    call = ToolCall("call_0", tool.name, values)
    return Use(tool, call, request, result, say(MADE_UP_ANSWER, rng, result=result))


def written(value: object, quoting: bool) -> str:
    """A value as a request shows it; texts in quotation marks or bare."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        items = [written(each, quoting) for each in value]
        return f"[{', '.join(items)}]"
    return f'"{value}"' if isinstance(value, str) and quoting else str(value)


@dataclass(frozen=True)
class Typed:
    """The type of an argument: its schema and how to draw a value."""

    schema: Mapping[str, Any]
    draw: Callable[[Random, Words], Any]


def typed_value(rng: Random, words: Words) -> Typed:
    """A random type: mostly string and integer, also number, boolean, enum and lists."""
    (kind,) = rng.choices(tuple(TYPES), [share for share, _ in TYPES.values()])
    return TYPES[kind][1](rng, words)


def _text(rng: Random, words: Words) -> Typed:
    draws: tuple[Callable[[Random, Words], Any], ...] = (
        lambda r, w: w.given_name(r),
        lambda r, w: w.person(r),
        lambda r, w: w.city(r),
        lambda r, w: w.code(r),
        lambda r, w: w.phrase(r, 1, 3),
        lambda r, w: w.title(r),
        lambda r, w: w.date(r),
    )
    return Typed({"type": "string"}, rng.choice(draws))


def _integer(rng: Random, words: Words) -> Typed:
    top = rng.choice((9, 99, 9999))
    return Typed({"type": "integer"}, lambda r, w: w.integer(r, 0, top))


def _number(rng: Random, words: Words) -> Typed:
    return Typed({"type": "number"}, decimal)


def _boolean(rng: Random, words: Words) -> Typed:
    return Typed({"type": "boolean"}, lambda r, w: r.random() < 0.5)


def _enum(rng: Random, words: Words) -> Typed:
    options = choices(rng, words)
    return Typed({"type": "string", "enum": options}, lambda r, w: r.choice(options))


def _list(rng: Random, words: Words) -> Typed:
    if rng.random() < 0.5:
        return Typed(
            {"type": "array", "items": {"type": "integer"}},
            lambda r, w: [w.integer(r, 0, 99) for _ in range(r.randint(1, 3))],
        )
    return Typed(
        {"type": "array", "items": {"type": "string"}},
        lambda r, w: [r.choice((w.thing, w.given_name))(r) for _ in range(r.randint(1, 3))],
    )


# name of a type: its share, and how to draw one
TYPES: Mapping[str, tuple[float, Callable[[Random, Words], Typed]]] = {
    "string": (0.40, _text),
    "integer": (0.22, _integer),
    "number": (0.10, _number),
    "boolean": (0.09, _boolean),
    "enum": (0.10, _enum),
    "list": (0.09, _list),
}


def decimal(rng: Random, words: Words) -> float:
    """A number with one or two digits behind the point, the last of them not zero."""
    digits = rng.choice((1, 1, 2))
    return float(
        f"{words.integer(rng, 0, 99)}.{rng.randint(0, 9) if digits == 2 else ''}{rng.randint(1, 9)}"
    )


def choices(rng: Random, words: Words) -> list[str]:
    """The options of an enum."""
    if rng.random() < 0.4:
        return rng.sample(COLORS, rng.randint(2, 4))
    return sorted({words.made_up(rng) for _ in range(rng.randint(2, 4))})


def made_up_name(wordings: ToolWordings, rng: Random, words: Words) -> str:
    """The name of a tool: `open_report`, `brinaTask`, `lumdo`."""
    return _joined(_part(wordings.verbs, rng, words), _part(wordings.nouns, rng, words), rng)


def argument_names(wordings: ToolWordings, count: int, rng: Random, words: Words) -> list[str]:
    """Different names, sorted as declarations sort them."""
    names: set[str] = set()
    while len(names) < count:
        name = _part(wordings.argument_names, rng, words)
        if rng.random() < 0.12:
            name = f"{name}_{_part(wordings.nouns, rng, words)}"
        names.add(name)
    return sorted(names)


def _part(pool: tuple[str, ...], rng: Random, words: Words) -> str:
    if rng.random() < words.synthetic * 0.8:
        return words.made_up(rng)
    return rng.choice(pool)


def _joined(verb: str, noun: str, rng: Random) -> str:
    form = rng.random()
    if form < 0.6:
        return f"{verb}_{noun}"
    if form < 0.75:
        return f"{noun}_{verb}"
    if form < 0.9:
        return f"{verb}{noun.capitalize()}"
    return f"{verb}{rng.choice('-.')}{noun}" if form < 0.93 else f"{verb}_{noun}s"


def _schema(typed: list[tuple[str, Typed]], rng: Random) -> dict[str, Any]:
    described = rng.random() < 0.25
    properties = {}
    for key, kind in typed:
        properties[key] = dict(kind.schema)
        if described:
            properties[key]["description"] = say("[The|Its|Which] {key}", rng, key=key)
    return {
        "type": "object",
        "properties": properties,
        "required": [key for key, _ in typed],
    }

"""JSON with the fields that a request lists, by name or by schema; names and types are random."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from dgemma_backend.messages import Message
from tiny_trainer.examples import Example, a_listing, jumbled, one_of, say, starting_large
from tiny_trainer.tasks.tool_making import Typed, typed_value, written
from tiny_trainer.words import Words


@dataclass(frozen=True)
class FieldWordings:
    """`facts` say one field over `{key}` and `{value}`; `openings` may stand before them, over
    `{name}`; `requests` are over `{text}` and `{fields}`; `names` are field names."""

    facts: tuple[str, ...]
    openings: tuple[str, ...]
    requests: tuple[str, ...]
    names: tuple[str, ...]


TRAINING_FIELDS = FieldWordings(
    facts=(
        "[The |the |its |]{key} is {value}",
        "{key}: {value}",
        "{key} = {value}",
        "{key} {value}",
        "[the |]{key} of it is {value}",
        "{value} is the {key}",
        "{value} as {key}",
        "with {value} for {key}",
        "it has the {key} {value}",
        "{key} should be {value}",
        "{key} -> {value}",
        "a {key} of {value}",
        "{value} ({key})",
        "{key} was {value}",
        "[we see|there is|they gave] {value} [at|under|in] {key}",
    ),
    openings=(
        "",
        "",
        "[About|Record|Entry|Of] {name}: ",
        "[We know this|Here it is]: ",
        "{name}, ",
    ),
    requests=(
        "[Extract|Get|Take|Read|Pull] {fields} from [the|this] text[ as JSON| in JSON|]: {text}",
        "[Return|Write|Give me|Make|Output] [a JSON object|JSON|an object] with {fields}[ from the "
        "text|].\n[Text: |]{text}",
        "{text}\n[Extract|Give me|Return] {fields}[ as JSON| in JSON|].",
        "[Text|Input]: {text}\n[Fields|Keys]: {fields}\n[JSON|Output]:",
        "[Schema|Format|JSON schema]: {fields}\n[Text|Input]: {text}",
        "{text}\n\n[Fill|Write|Return] [JSON|an object|the object] [like|with|by the schema] "
        "{fields}",
        "[I need|We want|Make|Put] {fields} [in|as|into] JSON[, from this|, "
        "please|][.|:]\n\n{text}",
        "[This is|Take|See] [the|a|our] [note|line|entry|message]: "
        "{text}\n[Convert|Write|Turn] {fields} "
        "[into|as|to] [JSON|a JSON object].",
        "{fields} <- {text}\nJSON:",
        "[What are|Find|Which are] {fields} [in|of] this[ text|]? [Use JSON|JSON please].\n{text}",
        "{text}\n[Now|Then|So]: {fields} [as|in] [JSON|an object]",
        "[Answer|Reply] in JSON [by this schema|with these fields][:|] {fields}\n\n{text}",
    ),
    names=tuple(
        "name age city job color item count price day date time code year size owner level title "
        "place label number key kind state total unit id email speed start end weight".split()
    ),
)


def field_names(wordings: FieldWordings, count: int, rng: Random, words: Words) -> list[str]:
    """Different names: words, made-up words, two of them joined."""
    names: dict[str, None] = {}
    while len(names) < count:
        made_up = rng.random() < words.synthetic
        name = words.made_up(rng) if made_up else rng.choice(wordings.names)
        if rng.random() < 0.15:
            name = f"{name}_{rng.choice(wordings.names)}"
        names[name] = None
    return list(names)


def record_text(
    wordings: FieldWordings, record: Sequence[tuple[str, Any]], rng: Random, words: Words
) -> str:
    """The record as a text in one manner, or in several."""
    facts = [rng.choice(wordings.facts)] if rng.random() < 0.6 else list(wordings.facts)
    if rng.random() < 0.25 * bool(words.noise):
        facts = [jumbled(("{key}", "{value}"), 3, rng, words)]
    quoting = rng.random() < 0.3
    told = [
        say(rng.choice(facts), rng, key=key, value=written(value, quoting)) for key, value in record
    ]
    opening = one_of(wordings.openings, rng, name=words.given_name(rng))
    separator = rng.choice((", ", ". ", "\n", ", ", "; "))
    if separator == ". ":
        told = [starting_large(each) for each in told]
    return opening + separator.join(told) + rng.choice((".", ""))


def field_list(asked: Sequence[tuple[str, Typed]], rng: Random) -> str:
    """The fields as a request lists them: names, names with types, or a JSON schema."""
    form = rng.random()
    keys = [key for key, _ in asked]
    if form < 0.4:
        return rng.choice(("", "the fields ", "the keys ")) + a_listing(keys, rng)
    types = {key: kind.schema["type"] for key, kind in asked}
    if form < 0.55:
        return ", ".join(f"{key} ({kind})" for key, kind in types.items())
    if form < 0.8:
        return json.dumps(types)
    properties = {key: dict(kind.schema) for key, kind in asked}
    return json.dumps({"type": "object", "properties": properties, "required": keys})


def fields_scene(
    wordings: FieldWordings, questions: int, most: int, rng: Random, words: Words
) -> tuple[Example, ...]:
    """One record, several requests for some of its fields."""
    total = rng.randint(1, most)
    typed = [(key, typed_value(rng, words)) for key in field_names(wordings, total, rng, words)]
    record = {key: kind.draw(rng, words) for key, kind in typed}
    shuffled = rng.sample(list(record.items()), total)
    text = record_text(wordings, shuffled, rng, words)
    template = say(rng.choice(wordings.requests), rng, text="{text}", fields="{fields}")
    system = one_of(words.prompts, rng) if rng.random() < 0.2 else None
    examples = []
    for _ in range(questions):
        asked = rng.sample(typed, rng.randint(1, min(total, 4)))
        request = say(template, rng, text=text, fields=field_list(asked, rng))
        messages = [Message.user(request)]
        if system is not None:
            messages.insert(0, Message.system(system))
        answer = json.dumps({key: record[key] for key, _ in asked}, ensure_ascii=False)
        examples.append(Example("json_fields", tuple(messages), answer, values=total))
    return tuple(examples)


def training_fields(rng: Random, words: Words) -> tuple[Example, ...]:
    """`fields_scene` in the wordings of the training data."""
    most = 2 + round(3 * words.level)
    return fields_scene(TRAINING_FIELDS, rng.randint(2, 3), most, rng, words)

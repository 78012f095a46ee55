"""Turning a sentence into JSON with the fields that the user names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import perm
from random import Random

from dgemma_backend.messages import Message
from tiny_trainer.examples import Example, a_listing, disturbed, one_of, say, with_system
from tiny_trainer.words import COLORS, DAYS, Words


@dataclass(frozen=True)
class ExtractWordings:
    """Texts over record fields, instructions over `{fields}` and `{text}`, and system prompts
    over `{fields}` under which the user sends the text alone."""

    texts: tuple[str, ...]
    instructions: tuple[str, ...]
    systems: tuple[str, ...]


FIELDS = (
    "name",
    "age",
    "city",
    "job",
    "color",
    "item",
    "count",
    "price",
    "day",
    "date",
    "time",
    "code",
    "year",
)

TRAINING_WORDINGS = ExtractWordings(
    texts=(
        "{name} is {age} years old and [lives in|comes from|is from] {city}.",
        "{name}, {age}, [lives in|comes from|is from|works in] {city}.",
        "{name} [lives in|moved to|comes from] {city} and is {age} years old.",
        "[My name is|I am|This is] {name}, I am {age} [years old |]and I live in {city}.",
        "{name} works as a {job} in {city}.",
        "{name} is a {job} from {city}[ and is {age} years old|].",
        "The {job} {name} is {age} years old.",
        "{name} is {age} and works as a {job}.",
        "In {city} the {job} {name} [has|opened|runs] a shop.",
        '{name} from {city} [bought|ordered|took] {count} of "{item}" for {price} euros.',
        "{name} [bought|ordered|wants] a {color} {item} for {price} euros.",
        "[The|A|This] {color} {item} [costs|is] {price} euros.",
        "[The|One] {item} is {color} and costs {price} euros.",
        'Order {code}: {count} of "{item}"[ for {name}|].',
        '{name} ordered "{item}", {count} of them, the order code is {code}.',
        "The order {code} from {name} goes to {city}.",
        "The parcel {code} [arrives in|goes to|is for] {city} on {day}.",
        "The [meeting|party|dinner|visit] with {name} is on {day} at {time}.",
        "{name} [comes|arrives|leaves] on {day} at {time}.",
        "On {date} {name} [travels|goes|flies] to {city}.",
        "{name} was born in {city} in {year}.",
        "[In|Since] {year} {name} [moved to|lives in|worked in] {city}.",
        "[The concert|The market|The show] in {city} [starts|opens|begins] at {time} on {day}.",
        "[Booking|Reservation|Ticket] {code} for {name} on {date} at {time}.",
        '{name} [sold|gave away|sent] {count} of "{item}" on {day}.',
        '[Please send|Send|Bring] {count} of the {color} "{item}" to {name} in {city}.',
        "Name: {name}\nAge: {age}\nCity: {city}",
        "Item: {item}, color: {color}, price: {price}",
        "Name: {name}, job: {job}, city: {city}",
        "Code: {code}\nDay: {day}\nTime: {time}",
    ),
    instructions=(
        "[Extract|Get|Take|Read|Pull] {fields} [from|out of] [the|this] [text|sentence]"
        "[ as JSON| and return JSON| in JSON|]: {text}",
        "[Extract|Get|Find|Give me] {fields} as JSON[ please|].\n{text}",
        "[Extract|Find|Read] {fields}[ as JSON|].\n\nText: {text}",
        "[Return|Write|Give me|Make|Output] [a JSON object|JSON|an object] with [the keys|the "
        "fields|] {fields}[ from the text|].\n[Text: |]{text}",
        "{text}\n\n[Extract|Get|Return|Give me|Write] {fields} as JSON.",
        "{text}\n[Put|Write] {fields} [into|in] [JSON|a JSON object].",
        "Text: {text}\n[Fields|Keys]: {fields}\n[JSON|Answer in JSON|Return JSON]:",
        "[Turn|Convert|Change] [this|the text|the sentence] into JSON with {fields}: {text}",
        "JSON with {fields}[ please|]: {text}",
        "[I need|I want] {fields} [as JSON|in JSON]. [The text is|Text|Here is the text]: {text}",
        "[Which|What] {fields} does the text [name|have]? Answer in JSON. {text}",
    ),
    systems=(
        "[Extract|Get|Find] {fields} [from the text|from what the user says|] as JSON.",
        "[Return|Answer with|Write] [JSON|a JSON object] with [the keys |the fields |]{fields}.",
        "You [extract|read] data. [Return|Answer in] JSON with {fields}.",
        "You turn text into JSON with {fields}.",
    ),
)


def draw_record(rng: Random, words: Words) -> dict[str, str | int]:
    """A value for every field there is."""
    return {
        "name": words.person(rng) if rng.random() < 0.5 else words.given_name(rng),
        "age": words.integer(rng, 10, 99),
        "city": words.city(rng),
        "job": words.job(rng),
        "color": rng.choice(COLORS),
        "item": words.thing(rng),
        "count": words.integer(rng, 2, 99),
        "price": words.integer(rng, 2, 990),
        "day": rng.choice(DAYS),
        "date": words.date(rng),
        "time": words.time(rng),
        "code": words.code(rng),
        "year": words.year(rng),
    }


def extraction(wordings: ExtractWordings, rng: Random, words: Words) -> Example:
    """A text about a record, some of its fields asked for, their JSON in the order asked."""
    record = draw_record(rng, words)
    text = disturbed(rng.choice(wordings.texts), rng, words)
    text = say(text, rng, **{key: "{" + key + "}" for key in record})
    present = [key for key in record if "{" + key + "}" in text]
    asked = rng.sample(
        present, rng.choice((1, 2, 2, 2, 3, 3)) if len(present) > 2 else len(present)
    )
    text = say(text, rng, **record)
    answer = json.dumps({key: record[key] for key in asked}, ensure_ascii=False)
    fields = a_listing(asked, rng)
    if rng.random() < 0.2:
        system = one_of(wordings.systems, rng, fields=fields)
        messages: tuple[Message, ...] = (Message.system(system), Message.user(text))
    else:
        template = disturbed(rng.choice(wordings.instructions), rng, words)
        request = say(template, rng, fields=fields, text=text)
        messages = with_system(rng, words, [Message.user(request)], 0.25)
    return Example("extract", messages, answer, values=perm(len(present), len(asked)))


def training_extraction(rng: Random, words: Words) -> Example:
    """`extraction` in the wordings of the training data."""
    return extraction(TRAINING_WORDINGS, rng, words)

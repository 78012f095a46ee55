"""The tools of the training data: what they are called, take, answer, and how people ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from dgemma_backend.messages import Tool
from tiny_trainer.words import CURRENCIES, DAYS, LANGUAGES, ROOMS, Words

Draw = Callable[[Random, Words], Any]


@dataclass(frozen=True)
class Argument:
    """One argument: its name, how to draw a value, and what the declaration may say of it."""

    name: str
    draw: Draw
    description: str
    kind: str = "string"


@dataclass(frozen=True)
class KnownTool:
    """A tool that the training data uses by name. Wordings are templates over its arguments;
    `answer` may also use `{result}`."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    requests: tuple[str, ...]
    result: Draw
    answer: str

    def declared(self, rng: Random) -> Tool:
        """The tool as a request would declare it, with or without argument descriptions."""
        return declare(rng, self.name, self.description, self.arguments)

    def draw_arguments(self, rng: Random, words: Words) -> dict[str, Any]:
        """A value for every argument."""
        return {argument.name: argument.draw(rng, words) for argument in self.arguments}


def declare(rng: Random, name: str, description: str, arguments: tuple[Argument, ...]) -> Tool:
    """A declaration with a JSON schema; argument descriptions in a third of the cases."""
    described = rng.random() < 0.33
    properties: dict[str, Any] = {}
    for argument in arguments:
        properties[argument.name] = {"type": argument.kind}
        if described:
            properties[argument.name]["description"] = argument.description
    schema = {
        "type": "object",
        "properties": properties,
        "required": [argument.name for argument in arguments],
    }
    return Tool(name, description, schema)


def _between(low: int, high: int) -> Draw:
    return lambda rng, words: words.integer(rng, low, high)


def _among(choices: tuple[str, ...]) -> Draw:
    return lambda rng, words: rng.choice(choices)


_TITLE: Draw = lambda rng, words: words.title(rng)  # noqa: E731
_CITY: Draw = lambda rng, words: words.city(rng)  # noqa: E731
_PERSON: Draw = lambda rng, words: words.person(rng)  # noqa: E731
_GIVEN: Draw = lambda rng, words: words.given_name(rng)  # noqa: E731
_TIME: Draw = lambda rng, words: words.time(rng)  # noqa: E731
_CODE: Draw = lambda rng, words: words.code(rng)  # noqa: E731
_NOTE: Draw = lambda rng, words: words.phrase(rng, 2, 4)  # noqa: E731

KNOWN_TOOLS: tuple[KnownTool, ...] = (
    KnownTool(
        "find_book",
        "Find a book in the library.",
        (Argument("title", _TITLE, "Title of the book"),),
        (
            "[Find|Look up|Search for|Get me|Look for] the book {title}[ please| in the library|].",
            "[Do you have|Is there|Can you find|Could you find] the book {title}?",
            "[I am looking for|I want to read|I need|I would like] the book {title}.",
            "[Where is|On which shelf is|Where do I find] the book {title}?",
        ),
        _between(1, 400),
        "It is on shelf {result}.",
    ),
    KnownTool(
        "send_note",
        "Send a note to a person.",
        (Argument("text", _NOTE, "What to say"), Argument("to", _GIVEN, "Who gets it")),
        (
            '[Send|Write|Give] {to} [a|this] note[ that says|:| saying] "{text}"',
            '[Tell|Please tell|Let] {to}[:| this:| know:] "{text}"',
            '[I want to send|Please send|Can you send|Could you write] {to} the note "{text}"',
            '[A note|This note|A message] for {to}: "{text}"',
            '[Send|Write] "{text}" to {to}[ please| now|].',
        ),
        _CODE,
        "The note was sent with number {result}.",
    ),
    KnownTool(
        "book_table",
        "Book a table in a restaurant.",
        (
            Argument("guests", _between(2, 40), "How many people", "integer"),
            Argument("name", _PERSON, "Name of the guest"),
        ),
        (
            "[Book|Reserve|Get] a table for {guests}[ people| guests|] for {name}[ please|].",
            "[I need|We need|I would like|We want] a table for {guests}[ people| guests|], "
            "[the name is|under the name|name] {name}.",
            "[Can you|Could you|Please] [book|reserve] a table in the name of {name} for "
            "{guests}[ people| guests|].",
            "{name} [needs|wants|would like] a table for {guests}[ people| guests|].",
        ),
        _between(2, 90),
        "Your table is number {result}.",
    ),
    KnownTool(
        "convert_money",
        "Convert euros to another currency.",
        (
            Argument("amount", _between(2, 9000), "Amount in euros", "integer"),
            Argument("currency", _among(CURRENCIES[1:]), "Target currency"),
        ),
        (
            "[Convert|Change|Turn] {amount} euros [to|into] {currency}[ please|].",
            "[How much is|How much are|What is|What are] {amount} euros in {currency}?",
            "[I have|There are] {amount} euros, how [much|many] is that in {currency}?",
            "[I want to|I need to|Can you|Please] [change|convert] {amount} euros to {currency}.",
        ),
        _between(2, 9000),
        "That is {result} {currency}.",
    ),
    KnownTool(
        "set_alarm",
        "Set an alarm clock.",
        (Argument("time", _TIME, "When to ring"),),
        (
            "[Wake me|Wake me up|Please wake me|Get me up] at {time}[ please| tomorrow|].",
            "[Set|Please set|Make|Put] an alarm [for|at] {time}[ please| tomorrow|].",
            "[I have to get up|I need to wake up|I must be up] at {time}.",
            "[Can you|Could you|Will you] wake me[ up|] at {time}?",
        ),
        _between(2, 90),
        "Alarm {result} is set for {time}.",
    ),
    KnownTool(
        "play_song",
        "Play a song.",
        (
            Argument("artist", _PERSON, "Who sings it"),
            Argument("song", _TITLE, "Name of the song"),
        ),
        (
            "[Play|Please play|Put on|I want to hear] {song} by {artist}[ please| now|].",
            "[Play|Put on|Start] the song {song} [by|from] {artist}[ please|].",
            "[Can you|Could you] play [the song |]{song} by {artist}?",
            "[I want|I would like] to [hear|listen to] {artist} with {song}.",
        ),
        _between(2, 9),
        "The song is playing for {result} minutes.",
    ),
    KnownTool(
        "track_parcel",
        "Track a parcel by its code.",
        (Argument("code", _CODE, "Code of the parcel"),),
        (
            "[Where is|Track|Find|Check|Follow] [my |the |]parcel {code}[ please|].",
            "[When will|When does] [my|the] parcel {code} [arrive|come]?",
            "[My parcel is|The parcel has the code|The code of my parcel is] {code}, where is it?",
            "[I am waiting for|I wait for|What about|Any news on] parcel {code}[.|?]",
        ),
        _CITY,
        "The parcel is in {result}.",
    ),
    KnownTool(
        "next_train",
        "Find the next train between two cities.",
        (
            Argument("end", _CITY, "Where the trip ends"),
            Argument("start", _CITY, "Where the trip starts"),
        ),
        (
            "[When is|When does|What time is|Find] the next train from {start} to {end}[?| go?|.]",
            "[I want to go|I need to get|I am going|We travel] from {start} to {end}[ by train|].",
            "[I need|Find|Get me|Is there] a train to {end} from {start}[.|?]",
            "[How do I get|Can I go] from {start} to {end}[ by train|]?",
        ),
        _TIME,
        "The next train leaves at {result}.",
    ),
    KnownTool(
        "add_event",
        "Put an event into the calendar.",
        (
            Argument("day", _among(DAYS), "Day of the week"),
            Argument("title", _TITLE, "Name of the event"),
        ),
        (
            "[Add|Put|Write|Enter] {title} [on|for] {day}[ please| to my calendar|].",
            "[Add|Put|Enter] {title} [to|in|into] [my|the] calendar [on|for] {day}.",
            "[I have|There is|We have] {title} on {day}[, please add it|, write it down|].",
            "[On|Next] {day} [I have|there is|we have] {title}[, please add it|].",
        ),
        _between(1, 60),
        "You have {result} events on {day}.",
    ),
    KnownTool(
        "find_phone",
        "Find the phone number of a person.",
        (Argument("name", _PERSON, "Who to look for"),),
        (
            "[What is|Find|Look up|Get me] the [phone |]number of {name}[?|.| please.]",
            "[I need|I want|Give me] [the phone number of|the number of] {name}.",
            "[How do I|How can I|I want to] [call|reach|phone] {name}[?|.]",
            "[Do you have|Do you know] the [phone |]number of {name}?",
        ),
        _between(10000, 99999),
        "The number is {result}.",
    ),
    KnownTool(
        "switch_light",
        "Switch the light of a room on.",
        (Argument("room", _among(ROOMS), "Which room"),),
        (
            "[Switch|Turn|Put] on the light in the {room}[ please|].",
            "[Switch|Turn] the light in the {room} on[ please|].",
            "[It is dark in|I need light in|I want light in|Light in] the {room}[.| please.]",
            "[Can you|Could you] [switch|turn] on the {room} light?",
        ),
        _between(2, 90),
        "The {room} light is on at {result} percent.",
    ),
    KnownTool(
        "count_stock",
        "Count how many of an item are in stock.",
        (Argument("item", lambda rng, words: words.thing(rng), "Name of the item"),),
        (
            '[How many of|How many] "{item}" [are in stock|do we have|are left]?',
            '[Check|Count|Look up] the stock of "{item}"[ please|].',
            '[Is|Do we have] "{item}" [in stock|left]?',
            '[I need|What is] the stock of "{item}"[.|?]',
        ),
        _between(2, 900),
        "There are {result} in stock.",
    ),
    KnownTool(
        "translate_word",
        "Translate a word.",
        (
            Argument("language", _among(LANGUAGES), "Target language"),
            Argument("word", lambda rng, words: words.thing(rng), "The word"),
        ),
        (
            '[Translate|Please translate] [the word |]"{word}" [to|into] {language}[ please|].',
            '[What is|What does one say for|How do you say] "{word}" in {language}?',
            '[I need|Give me|Tell me] the {language} word for "{word}".',
            '[How would|How do] I say "{word}" in {language}?',
        ),
        lambda rng, words: words.phrase(rng, 1, 1),
        'The {language} word is "{result}".',
    ),
    KnownTool(
        "city_clock",
        "Tell the time in a city.",
        (Argument("city", _CITY, "Name of the city"),),
        (
            "[What time is it|What is the time|How late is it] in {city}[ now|]?",
            "[Tell me|Give me|I need|Check] the time in {city}[ please|].",
            "[What does the clock say|Is it late] in {city}?",
            "[Do you know|Can you tell me] [the time|what time it is] in {city}?",
        ),
        _TIME,
        "In {city} it is {result}.",
    ),
    KnownTool(
        "read_forecast",
        "Read the forecast for a city and a day.",
        (
            Argument("city", _CITY, "Name of the city"),
            Argument("day", _among(DAYS), "Day of the week"),
        ),
        (
            "[How warm will it be|Will it be warm|Will it rain] in {city} on {day}?",
            "[What is|Read|Tell me|I need] the forecast for {city} on {day}[ please|].",
            "[What will {day} be like|How will {day} be] in {city}?",
            "[I am in|I will be in|We go to] {city} on {day}, how warm [will it be|is it]?",
        ),
        _between(2, 38),
        "It will be {result} degrees in {city}.",
    ),
    KnownTool(
        "order_item",
        "Order an item from the shop.",
        (
            Argument("count", _between(2, 200), "How many", "integer"),
            Argument("item", lambda rng, words: words.thing(rng), "Name of the item"),
        ),
        (
            '[Order|Buy|Get|Get me] {count} of "{item}"[ please|].',
            '[I need|We need|I want|I would like] {count} of "{item}"[ please| from the shop|].',
            '[Can you|Could you|Please] [order|buy] "{item}", {count} of them.',
            '[Order|Buy|Get] "{item}"[ from the shop|], {count} [of them|pieces].',
        ),
        _CODE,
        "Your order has the number {result}.",
    ),
)

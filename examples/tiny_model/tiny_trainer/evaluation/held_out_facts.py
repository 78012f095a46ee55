"""The facts of the training data in words that the training data does not use for them."""

from __future__ import annotations

from tiny_trainer.tasks.facts import FACTS, Fact

# name of the fact: (statements, questions)
_REWORDED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "place": (
        (
            "{subject} can be seen in {value}.",
            "People go to {value} to see {subject}.",
            "{subject}, in {value}, is well known.",
        ),
        (
            "Where would I find {subject}?",
            "Which town is home to {subject}?",
            "Tell me the city where {subject} is.",
        ),
    ),
    "founder": (
        (
            "{value} once founded {subject} alone.",
            "{subject}, founded by {value}, is well known.",
            "The person who started {subject} was {value}.",
        ),
        (
            "Who is known as the founder of {subject}?",
            "Tell me who founded {subject}.",
            "Whose idea was it to start {subject}?",
        ),
    ),
    "director": (
        (
            "{subject} has {value} as its director.",
            "{value} is in charge of {subject} today.",
            "The person who leads {subject} is {value}.",
        ),
        (
            "Tell me who leads {subject}.",
            "Who is in charge as director of {subject}?",
            "Which person runs {subject}?",
        ),
    ),
    "opened": (
        (
            "{subject} first opened in the year {value}.",
            "The first visitors came to {subject} in {value}.",
            "{subject}, opened in {value}, is well known.",
        ),
        (
            "Tell me the year in which {subject} was opened.",
            "When was the opening of {subject}?",
            "From which year is {subject}?",
        ),
    ),
    "opens": (
        (
            "From {value} on {subject} is open.",
            "{subject} lets visitors in at {value}.",
            "In the morning, {subject} opens at {value}.",
        ),
        (
            "Tell me when {subject} opens.",
            "At what time do the doors open?",
            "When in the morning does {subject} open?",
        ),
    ),
    "ticket": (
        (
            "Tickets cost {value} euros each.",
            "To get in, you pay {value} euros.",
            "The ticket price is {value} euros.",
        ),
        (
            "Tell me the price of a ticket.",
            "How many euros is a ticket?",
            "What must I pay for a ticket?",
        ),
    ),
    "rooms": (
        (
            "{subject} is large and has {value} rooms.",
            "You can see {value} rooms there.",
            "All of the {value} rooms are open.",
        ),
        (
            "Tell me how many rooms {subject} has.",
            "What number of rooms does {subject} have?",
            "How many rooms are there to see?",
        ),
    ),
    "closed": (
        (
            "Every {value} {subject} is closed.",
            "{subject} does not open on {value}.",
            "{value} is the day when {subject} is closed.",
        ),
        (
            "Tell me on which day {subject} is closed.",
            "Which day of the week is it closed?",
            "When does {subject} stay closed?",
        ),
    ),
    "phone": (
        (
            "You reach {subject} by phone at {value}.",
            "To call {subject}, use the number {value}.",
            "Their number is {value}.",
        ),
        (
            "Tell me the phone number.",
            "Which phone number does {subject} have?",
            "What number do I call to reach {subject}?",
        ),
    ),
    "job": (
        (
            "{subject}, a {value}, works every day.",
            "People know {subject} as a {value}.",
            "{subject} earns money as a {value}.",
        ),
        (
            "Tell me the job of {subject}.",
            "What is {subject} by trade?",
            "What work does {subject} do?",
        ),
    ),
    "home": (
        (
            "In {value} {subject} has a home.",
            "{subject} has lived in {value} for years.",
            "{value} is the city where {subject} lives.",
        ),
        (
            "Tell me where {subject} lives.",
            "Which city does {subject} live in?",
            "Where is the house of {subject}?",
        ),
    ),
    "born": (
        (
            "The year {subject} was born is {value}.",
            "{subject} came into the world in {value}.",
            "It was in {value} that {subject} was born.",
        ),
        (
            "Tell me when {subject} was born.",
            "What year did {subject} come into the world?",
            "The birth of {subject} was in which year?",
        ),
    ),
    "pet": (
        (
            "{subject} loves a dog by the name of {value}.",
            "The name of the cat of {subject} is {value}.",
            "{subject} calls the dog {value}.",
        ),
        (
            "Tell me the name of the pet.",
            "Which name does the pet have?",
            "What does {subject} call the pet?",
        ),
    ),
    "cost": (
        (
            "{subject} can be bought for {value} euros.",
            "For {subject} you pay {value} euros.",
            "{value} euros is the price of {subject}.",
        ),
        (
            "Tell me the price of {subject}.",
            "How many euros does {subject} cost?",
            "What do I pay for {subject}?",
        ),
    ),
    "color": (
        (
            "{subject} is painted all {value}.",
            "{value} is the color of {subject}.",
            "You can buy {subject} in {value}.",
        ),
        (
            "Tell me the color of {subject}.",
            "Of which color is {subject}?",
            "What color has {subject}?",
        ),
    ),
    "weight": (
        (
            "{subject} has {value} kilos.",
            "{value} kilos is the weight of {subject}.",
            "On a scale, {subject} shows {value} kilos.",
        ),
        (
            "Tell me the weight of {subject}.",
            "What does {subject} weigh?",
            "How many kilos does {subject} have?",
        ),
    ),
    "battery": (
        (
            "{subject} has a battery for {value} hours.",
            "After {value} hours the battery is empty.",
            "You can use {subject} for {value} hours.",
        ),
        (
            "Tell me how long the battery lasts.",
            "After how many hours is the battery empty?",
            "How long can I use {subject}?",
        ),
    ),
    "maker": (
        (
            "The company {value} builds {subject}.",
            "{subject} was made by {value}.",
            "{value} is the maker of {subject}.",
        ),
        (
            "Tell me who makes {subject}.",
            "Which maker builds {subject}?",
            "What is the name of the maker?",
        ),
    ),
}

HELD_OUT_FACTS: tuple[Fact, ...] = tuple(fact.reworded(*_REWORDED[fact.name]) for fact in FACTS)

"""Kinds of facts that a context can state, with the wordings of the training data.

A fact has a domain (a place, a person, a product), statements over `{subject}` and `{value}`,
questions over `{subject}`, and one short answer over `{value}`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tiny_trainer.words import COLORS, DAYS, Words


@dataclass(frozen=True)
class Fact:
    """One kind of fact; facts of one `group` have values that could be mistaken for another."""

    name: str
    domain: str
    group: str
    draw: Callable[[Random, Words], object]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str

    def reworded(self, statements: tuple[str, ...], questions: tuple[str, ...]) -> Fact:
        """The same fact said and asked in other words."""
        return replace(self, statements=statements, questions=questions)


def _between(low: int, high: int) -> Callable[[Random, Words], object]:
    return lambda rng, words: words.integer(rng, low, high)


FACTS: tuple[Fact, ...] = (
    Fact(
        "place",
        "site",
        "city",
        lambda rng, words: words.city(rng),
        (
            "{subject} [is|lies|stands] in {value}.",
            "{subject} is [in the city of|in the middle of|in the old town of|near] {value}.",
            "[You find|Visitors find|People find] {subject} in {value}.",
            "In {value} [there is|you find|stands] {subject}.",
            "{subject} [was built|was opened|can be found] in {value}.",
        ),
        (
            "Where is {subject}?",
            "Where [can I find|do I find|do you find] {subject}?",
            "[In which city|In what city|In which town] is {subject}?",
            "[What|Which] city is {subject} in?",
            "Where does {subject} [stand|lie]?",
        ),
        "It is in {value}.",
    ),
    Fact(
        "founder",
        "site",
        "person",
        lambda rng, words: words.person(rng),
        (
            "{subject} was [founded|built|started|created] by {value}.",
            "{value} [founded|built|started|created] {subject}.",
            "It was {value} who [founded|built|started] {subject}.",
            "The founder of {subject} [is|was] {value}.",
        ),
        (
            "Who [founded|built|started|created] {subject}?",
            "[By whom|Through whom] was {subject} [founded|built|started]?",
            "Who was {subject} [founded|built|started] by?",
            "Who [is|was] the founder[ of {subject}|]?",
        ),
        "It was founded by {value}.",
    ),
    Fact(
        "director",
        "site",
        "person",
        lambda rng, words: words.person(rng),
        (
            "{value} [runs|leads|manages] {subject}[ today| now|].",
            "{subject} is [run|led|managed] by {value}[ today| now|].",
            "The [director|manager|head] of {subject} is {value}.",
            "[Today|Now] {value} is the [director|manager|head] of {subject}.",
        ),
        (
            "Who [runs|leads|manages] {subject}[ today| now|]?",
            "Who is the [director|manager|head][ of {subject}|]?",
            "What is the name of the [director|manager|head]?",
            "By whom is {subject} [run|led|managed]?",
        ),
        "It is led by {value}.",
    ),
    Fact(
        "opened",
        "site",
        "year",
        lambda rng, words: words.year(rng),
        (
            "{subject} [was opened|opened|was founded|was built] in {value}.",
            "{subject} [dates from|is from|goes back to] {value}.",
            "[In|Back in] {value} {subject} was [opened|founded|built].",
            "The [year|opening year] of {subject} [is|was] {value}.",
            "{subject} has [been open|been there|existed] since {value}.",
        ),
        (
            "When was {subject} [opened|founded|built]?",
            "In [which|what] year was {subject} [opened|founded|built]?",
            "[What|Which] year was {subject} [opened|founded|built]?",
            "Since when [does {subject} exist|has {subject} been open]?",
            "How old is {subject}?",
        ),
        "It was opened in {value}.",
    ),
    Fact(
        "opens",
        "site",
        "time",
        lambda rng, words: words.time(rng),
        (
            "{subject} opens at {value}[ every day| in the morning| each day|].",
            "[The doors open|The doors of {subject} open] at {value}[ every day|].",
            "[You can come|Visitors can come|Guests may enter] [from|after] {value}.",
            "{subject} is open from {value}[ every day| on|].",
            "Every day at {value} {subject} opens[ its doors|].",
        ),
        (
            "When does {subject} open?",
            "[What time|At what time|At which time] does {subject} open?",
            "From when is {subject} open?",
            "When do the doors[ of {subject}|] open?",
            "When can [I|we|visitors] [come|enter|visit {subject}]?",
        ),
        "It opens at {value}.",
    ),
    Fact(
        "ticket",
        "site",
        "price",
        _between(2, 95),
        (
            "[A|One|The] ticket [costs|is] {value} euros.",
            "[A ticket for|A visit to|Entry to] {subject} costs {value} euros.",
            "[Visitors|Guests|People] pay {value} euros[ for a ticket| to get in|].",
            "The [price|entry price] [is|of a ticket is] {value} euros.",
            "[For|At] {value} euros [you get a ticket|you can go in|a ticket is cheap].",
        ),
        (
            "How much [is|costs|does] a ticket[ cost|]?",
            "What does a [ticket|visit] cost?",
            "What is the [price|entry price|price of a ticket]?",
            "How [much|many euros] do [I|we|visitors] [pay|have to pay][ to get in|]?",
            "How much does [a visit|it|a ticket] cost?",
        ),
        "A ticket costs {value} euros.",
    ),
    Fact(
        "rooms",
        "site",
        "count",
        _between(2, 480),
        (
            "{subject} has {value} rooms.",
            "There are {value} rooms in {subject}.",
            "[With|In all] {value} rooms, {subject} is [large|not small].",
            "{subject} [holds|offers|counts] {value} rooms.",
            "It [has|offers|holds] {value} [large |small |]rooms.",
        ),
        (
            "How many rooms [does {subject} have|are there|has {subject}]?",
            "[What is|Tell me] the number of rooms[?|.]",
            "How many rooms are [in|there in] {subject}?",
            "How many rooms [can I see|does it offer]?",
        ),
        "It has {value} rooms.",
    ),
    Fact(
        "closed",
        "site",
        "day",
        lambda rng, words: rng.choice(DAYS),
        (
            "{subject} is closed on {value}.",
            "It [is closed|stays closed] on {value}.",
            "On {value} {subject} [is|stays] closed.",
            "[Nobody works|There is no entry|No visits are possible] on {value}.",
        ),
        (
            "When is {subject} closed?",
            "On [which|what] day is {subject} closed?",
            "[Which|What] day is {subject} closed?",
            "On which day [can I not come|is it not open]?",
        ),
        "It is closed on {value}.",
    ),
    Fact(
        "phone",
        "site",
        "phone",
        lambda rng, words: words.integer(rng, 10000, 99999),
        (
            "The [phone number|number|telephone number][ of {subject}|] is {value}.",
            "[You can call|Call] {subject} at {value}.",
            "Phone: {value}.",
            "[For questions|To ask], call {value}.",
        ),
        (
            "What is the [phone number|number|telephone number][ of {subject}|]?",
            "[Which|What] number [can|do|must] I call?",
            "How can I [call|phone|reach] {subject}?",
            "What is [its|their] [phone |]number?",
        ),
        "The number is {value}.",
    ),
    Fact(
        "job",
        "person",
        "job",
        lambda rng, words: words.job(rng),
        (
            "{subject} [works as|is] a {value}.",
            "{subject} [became|trained as|has been] a {value}.",
            "[By day|At work] {subject} is a {value}.",
            "The job of {subject} is {value}.",
        ),
        (
            "What [is the job of {subject}|does {subject} do|does {subject} work as]?",
            "[Which|What] job does {subject} have?",
            "What does {subject} do for a living?",
            "[As what|In which job] does {subject} work?",
        ),
        "The job is {value}.",
    ),
    Fact(
        "home",
        "person",
        "city",
        lambda rng, words: words.city(rng),
        (
            "{subject} lives in {value}.",
            "{subject} [moved to|has a house in|has a flat in] {value}.",
            "The home of {subject} is [in |]{value}.",
            "{subject} [comes from|is from] {value}.",
        ),
        (
            "Where does {subject} live?",
            "[In which|In what] city does {subject} live?",
            "Where is [{subject} from|the home of {subject}]?",
            "Where does {subject} come from?",
        ),
        "The city is {value}.",
    ),
    Fact(
        "born",
        "person",
        "year",
        lambda rng, words: words.year(rng),
        (
            "{subject} was born in {value}.",
            "{value} is the year {subject} was born.",
            "The birth year of {subject} is {value}.",
            "Born in {value}, {subject} [grew up fast|is well known].",
        ),
        (
            "When was {subject} born?",
            "In [which|what] year was {subject} born?",
            "What is the birth year[ of {subject}|]?",
            "[Which|What] year was {subject} born?",
        ),
        "The year is {value}.",
    ),
    Fact(
        "pet",
        "person",
        "pet",
        lambda rng, words: words.given_name(rng),
        (
            "{subject} has a [dog|cat] [called|named] {value}.",
            "The [dog|cat] of {subject} is [called|named] {value}.",
            "{value} is the [name of the |][dog|cat] of {subject}.",
        ),
        (
            "What is the [dog|cat|pet] of {subject} called?",
            "What is the name of the [dog|cat|pet]?",
            "How is the [dog|cat|pet] called?",
            "What is the [dog|cat|pet] named?",
        ),
        "The pet is called {value}.",
    ),
    Fact(
        "cost",
        "product",
        "price",
        _between(2, 990),
        (
            "{subject} costs {value} euros.",
            "The price[ of {subject}|] is {value} euros.",
            "[You pay|Shops ask] {value} euros for {subject}.",
            "{subject} [sells for|is sold for] {value} euros.",
        ),
        (
            "How much [is|does] {subject}[ cost|]?",
            "What does {subject} cost?",
            "What is the price[ of {subject}|]?",
            "How many euros [is|for] {subject}?",
        ),
        "It costs {value} euros.",
    ),
    Fact(
        "color",
        "product",
        "color",
        lambda rng, words: rng.choice(COLORS),
        (
            "{subject} is {value}.",
            "{subject} [comes in|is painted] {value}.",
            "The color[ of {subject}|] is {value}.",
            "It [has a {value} color|comes in {value}].",
        ),
        (
            "What color is {subject}?",
            "[Which|What] color does {subject} have?",
            "What is the color[ of {subject}|]?",
            "In which color does it come?",
        ),
        "It is {value}.",
    ),
    Fact(
        "weight",
        "product",
        "weight",
        _between(2, 90),
        (
            "{subject} weighs {value} kilos.",
            "The weight[ of {subject}|] is {value} kilos.",
            "With {value} kilos, {subject} is [heavy|light].",
            "It [has a weight of|weighs about] {value} kilos.",
        ),
        (
            "How much does {subject} weigh?",
            "How heavy is {subject}?",
            "What is the weight[ of {subject}|]?",
            "How many kilos [is|does] {subject}[ weigh|]?",
        ),
        "It weighs {value} kilos.",
    ),
    Fact(
        "battery",
        "product",
        "hours",
        _between(2, 72),
        (
            "The battery lasts {value} hours.",
            "{subject} runs for {value} hours.",
            "{subject} [works|runs] {value} hours [without power|on one charge].",
            "One charge is enough for {value} hours.",
        ),
        (
            "How long does [the battery|{subject}] [last|run]?",
            "How many hours does [the battery|{subject}] [last|run|work]?",
            "For how [long|many hours] does {subject} run?",
        ),
        "It lasts {value} hours.",
    ),
    Fact(
        "maker",
        "product",
        "person",
        lambda rng, words: words.family_name(rng),
        (
            "{subject} is made by {value}.",
            "{value} makes {subject}.",
            "The maker[ of {subject}|] is {value}.",
            "{subject} comes from the company {value}.",
        ),
        (
            "Who makes {subject}?",
            "Who is the maker[ of {subject}|]?",
            "[Which|What] company makes {subject}?",
            "By whom is {subject} made?",
        ),
        "It is made by {value}.",
    ),
)

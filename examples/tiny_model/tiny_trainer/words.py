"""The names, things and numbers that examples are made of, in two disjoint pools.

`TRAINING` fills the training examples, `HELD_OUT` those of the evaluator. More than half of the
names in training are made up, so that the model learns to copy spelling and not a list. Integers
of two and more digits are split as well: those that leave 4 when divided by 9 are held out.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tiny_trainer.scripts import foreign_word

COLORS = tuple("red blue green yellow black white grey brown orange purple pink silver".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = tuple(
    "January February March April May June July August September October November December".split()
)
LANGUAGES = tuple("French German Spanish Italian Polish Dutch Greek Danish Czech Finnish".split())
ROOMS = tuple("kitchen hall bedroom garage office bathroom cellar attic garden library".split())
CURRENCIES = tuple("euros dollars pounds francs crowns".split())

_HELD_OUT_RESIDUE = 4
_MODULUS = 9
_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant[ who|. You|, you] [answers|answer] briefly.",
    "You are a [friendly|polite|careful|useful|kind|small] assistant.",
    "You are an assistant[ for a small company| in a library| on a phone| for travellers|].",
    "[Be|Please be] [short|concise|polite|friendly|precise|helpful].",
    "Answer [briefly|shortly|in one sentence|in a friendly way|clearly|politely].",
    "Keep your answers short[ and clear|].",
    "Help the user[ as well as you can| with short answers| politely|].",
    "You [help people|assist the user|serve customers][ with their questions| every day|].",
    "You are a chat model. [Be useful.|Be kind.|Keep it short.]",
)
_HELD_OUT_SYSTEM_PROMPTS = (
    "You work for a small museum.",
    "Say what is asked, and no more.",
    "This is a chat with a customer. Stay calm.",
)
_ONSETS = tuple("b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh st th tr".split())
_VOWELS = tuple("a e i o u ai ea io ou y".split()) + ("a", "e", "i", "o") * 2
_CODAS = tuple("n r s l m t k d nd rt st ck x sh".split()) + ("",) * 12


@dataclass(frozen=True)
class Words:
    """A pool to draw from. `synthetic` is the share of made-up names, `noise` how often a wording
    is disturbed (see `examples.disturbed`), `foreign` the share of names in other scripts, `level`
    how hard the curriculum is by now, from 0 (short names, few facts) to 1."""

    given: tuple[str, ...]
    family: tuple[str, ...]
    cities: tuple[str, ...]
    things: tuple[str, ...]
    plain: tuple[str, ...]
    title_words: tuple[str, ...]
    jobs: tuple[str, ...]
    synthetic: float
    noise: float
    held_out: bool
    prompts: tuple[str, ...]  # general system prompts
    foreign: float = 0.0
    level: float = 1.0

    def given_name(self, rng: Random) -> str:
        """A first name: `Marta`."""
        return self._named(rng, self.given)

    def family_name(self, rng: Random) -> str:
        """A last name: `Silva`."""
        return self._named(rng, self.family)

    def person(self, rng: Random) -> str:
        """First and last name."""
        return f"{self.given_name(rng)} {self.family_name(rng)}"

    def city(self, rng: Random) -> str:
        """A town: `Porto`."""
        return self._named(rng, self.cities)

    def thing(self, rng: Random) -> str:
        """A countable object in lower case: `lamp`."""
        if rng.random() < self.synthetic / 4:
            return self.made_up(rng)
        return rng.choice(self.things)

    def job(self, rng: Random) -> str:
        """A trade: `nurse`."""
        return rng.choice(self.jobs)

    def title(self, rng: Random) -> str:
        """A title of two or three capitalised words: `Silent River`."""
        count = rng.choice((2, 2, 3)) if rng.random() < self.level else 1
        words = [self._named(rng, self.title_words) for _ in range(count)]
        return " ".join(words)

    def phrase(self, rng: Random, low: int, high: int) -> str:
        """`low` to `high` plain words in lower case, some of them made up."""
        count = rng.randint(low, high)
        return " ".join(self._word(rng) for _ in range(count))

    def integer(self, rng: Random, low: int, high: int) -> int:
        """A number of this pool in `[low, high]`; below 10 there is no split."""
        while True:
            number = rng.randint(low, high)
            if number < 10 or (number % _MODULUS == _HELD_OUT_RESIDUE) == self.held_out:
                return number

    def time(self, rng: Random) -> str:
        """A time of day: `7:45`."""
        return f"{rng.randint(0, 23)}:{rng.choice('012345')}{rng.choice('05')}"

    def year(self, rng: Random) -> int:
        """A year between 1700 and 2025."""
        return self.integer(rng, 1700, 2025)

    def date(self, rng: Random) -> str:
        """A day of the year: `4 May`."""
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"

    def code(self, rng: Random) -> str:
        """Letters and digits: `KX4821`; in training at times of another form: `qt-48-x`."""
        if self.synthetic and rng.random() < 0.3:
            return _odd_code(rng)
        letters = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 2)))
        return f"{letters}{self.integer(rng, 100, 9999)}"

    def spelt(self) -> tuple[str, ...]:
        """Every word of the pool in lower case."""
        lists = (self.given, self.family, self.cities, self.things, self.plain)
        return tuple(
            word.lower() for words in (*lists, self.title_words, self.jobs) for word in words
        )

    def made_up(self, rng: Random) -> str:
        """A word in lower case that exists nowhere; held-out ones are spliced of held-out words."""
        if self.held_out:
            return _spliced(rng, _HELD_OUT_SPLICED_FROM)
        return spell(rng, rng.choice((1, 2)))

    def value(self, rng: Random) -> object:
        """A value of any kind: a name, a number, a date, a code, a few words."""
        return rng.choice(_ANY_VALUE)(self, rng)

    def copied(self) -> frozenset[str]:
        """Words in lower case that answers take out of prompts one by one."""
        lists = (self.things, self.jobs, COLORS, ROOMS, CURRENCIES)
        return frozenset(word for words in lists for word in words)

    def _named(self, rng: Random, names: tuple[str, ...]) -> str:
        if rng.random() >= self.level:
            return rng.choice([name for name in names if len(name) < 6])
        chance = rng.random()
        if chance < self.foreign:
            return foreign_word(rng)
        if chance < self.foreign + self.synthetic:
            word = self.made_up(rng) if self.held_out else spell(rng, rng.choice((1, 2, 2, 3)))
            return word.capitalize()
        return rng.choice(names)

    def _word(self, rng: Random) -> str:
        if rng.random() < self.synthetic * 0.6:
            return self.made_up(rng)
        return rng.choice(self.plain)


_ANY_VALUE: tuple[Callable[[Words, Random], object], ...] = (
    Words.person,
    Words.given_name,
    Words.city,
    Words.title,
    Words.code,
    Words.time,
    Words.date,
    Words.thing,
    lambda words, rng: words.phrase(rng, 1, 3),
    lambda words, rng: words.integer(rng, 0, 99),
    lambda words, rng: words.integer(rng, 100, 99999),
    lambda words, rng: rng.choice(COLORS),
    lambda words, rng: rng.choice(DAYS),
)


def _odd_code(rng: Random) -> str:
    parts = [
        "".join(rng.choice(rng.choice((string.ascii_lowercase, string.digits))) for _ in range(n))
        for n in rng.choice(((2, 2, 1), (4,), (3, 2), (6,), (2, 4)))
    ]
    return rng.choice("-_./:").join(parts)


def spell(rng: Random, syllables: int) -> str:
    """A made-up word in lower case: random syllables, letters, or two words spliced."""
    while True:
        kind = rng.random()
        if kind < 0.1:
            word = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 7)))
        elif kind < 0.5:
            parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
            word = "".join(parts) + rng.choice(_CODAS)
        else:
            word = _spliced(rng, _SPLICED_FROM)
        if len(word) < 3:
            word += rng.choice("nrst")
        if word not in _RESERVED:
            return word


def _spliced(rng: Random, words: tuple[str, ...]) -> str:
    """The beginning of one word and the end of another; so every piece meets every other."""
    first, second = rng.choice(words), rng.choice(words)
    start = first[: rng.randint(1, max(1, len(first) - 2))]
    if rng.random() < 0.15:
        start = rng.choice(string.ascii_lowercase) + start[1:]
    return start + second[rng.randint(1, max(1, len(second) - 2)) :]


def _pools(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TRAINING = Words(
    given=_pools(
        "Ada Alma Amir Anders Anita Anton Aria Axel Bela Ben Berta Boris Bruno Carla Cem Clara "
        "Daan Dalia Daria David Dora Edgar Elena Elif Emil Emma Enzo Erika Esra Eva Fabio Felix "
        "Finn Flora Frida Gina Greta Hana Hans Hugo Ida Ilse Ines Ivan Jana Jonas Jorge Julia "
        "Kai Karin Karl Kemal Lars Laura Lea Leon Lina Lola Luca Luis Maja Mara Marco Maria Mark "
        "Marta Mia Mila Milan Nadia Nina Noah Nora Olga Omar Oscar Otto Pablo Paul Petra Pia Rosa "
        "Ruth Sam Sara Selma Simon Sofia Stella Sven Tara Theo Tim Tom Uma Vera Viktor Wanda Yara "
        "Yusuf Zara Zoe James Anna Peter Lucy Alice Henry Grace Jack Kate Daniel Sophie Martin"
    ),
    family=_pools(
        "Adler Aksoy Andersen Bauer Becker Berg Bianchi Blanc Brandt Castro Cohen Costa Cruz Dahl "
        "Demir Diaz Duarte Eriksen Evans Falk Fischer Fontaine Garcia Gomez Grant Hahn Hansen Hart "
        "Haas Holm Hughes Ito Jansen Kaya Keller Kim Klein Koch Kovac Kraus Lang Larsen Leroy Lind "
        "Lopez Lund Marin Martel Mayer Meyer Moreau Moser Nagy Nielsen Novak Olsen Ortega Park "
        "Parker Petrov Popov Ramos Reyes Ricci Riva Romero Rossi Roth Sato Schmidt Silva Smith "
        "Sousa Stein Stone Torres Vargas Vogel Wagner Walsh Weber Winter Wolf Young Ziegler Miller"
    ),
    cities=_pools(
        "Aarhus Athens Basel Bergen Berlin Bilbao Bonn Bremen Brno Cairo Cork Delft Dublin Essen "
        "Florence Geneva Genoa Ghent Graz Hamburg Hanoi Izmir Kiel Krakow Lagos Leeds Leipzig Lima "
        "Linz Lisbon London Lyon Madrid Malaga Malmo Milan Minsk Munich Nantes Naples Nice Odessa "
        "Oslo Ostrava Oxford Padua Palermo Paris Parma Perth Pisa Porto Prague Quito Riga Rome "
        "Rouen Seoul Seville Siena Sofia Split Tallinn Tampere Tokyo Toulouse Trieste Turin Turku "
        "Utrecht Valencia Verona Vienna Vilnius Warsaw York Zagreb Zurich Denver Toronto"
    ),
    things=_pools(
        "apple bag ball basket bed bell bicycle blanket book bottle bowl box bread brush bucket "
        "cake camera candle carpet chair clock coat comb cup desk door drum flute fork glove "
        "guitar hammer hat helmet jacket kettle key knife ladder lamp lantern map mirror mug "
        "needle orange oven paddle pan pen pencil piano pillow plate pot radio ring rope rug "
        "saddle scarf shelf shirt shoe shovel sofa spoon stool table tent ticket toaster towel "
        "train tray umbrella vase violin wallet watch whistle window"
    ),
    plain=_pools(
        "the a my your our one two three big small old new warm cold quiet loud soft hard long "
        "short early late fast slow river stone bridge forest garden window morning evening night "
        "winter summer water bread milk tea coffee soup salt sugar train boat car road street "
        "house door room table chair book page letter word song bird cat dog horse fish cow sheep "
        "buy sell bring send call find keep open close write read sing walk run swim wait come go "
        "is are was will can and or but with without under over near after before today tomorrow "
        "meeting lunch dinner party ticket list key phone bill rent doctor school office market "
        "please remember clean water the plants pick up fix wash take back give"
    ),
    title_words=_pools(
        "Silent River Golden Garden Winter Light Broken Clock Hidden Valley Distant Shore Empty "
        "House Long Road Red Door White Horse Night Train Stone Bridge Summer Rain Lost Letter "
        "Blue Moon Wild Forest Secret Island Last Dance Paper Ship Morning Star Quiet Street "
        "Green Hill Old Tower Deep Water Little Bird Iron Crown Glass City First Snow"
    ),
    jobs=_pools(
        "nurse baker teacher pilot farmer painter lawyer driver cook tailor singer writer gardener "
        "doctor plumber barber sailor dentist carpenter librarian waiter engineer"
    ),
    synthetic=0.5,
    noise=0.25,
    held_out=False,
    prompts=_SYSTEM_PROMPTS,
    foreign=0.06,
)

HELD_OUT = Words(
    given=_pools(
        "Agnes Albin Beatriz Conrad Delia Edith Farid Gerda Harald Irma Jasper Katya Leila Magnus "
        "Nils Odette Priya Quentin Ramona Sigrid Tobias Ursula Vincent Wilma Xenia Yvonne Zelda "
        "Roland Mirko Celine"
    ),
    family=_pools(
        "Abbott Barros Carvalho Dupont Engel Ferrari Gruber Huber Ivanov Jonsson Kowalski Lambert "
        "Mendes Norberg Oliveira Pinto Quist Rasmussen Santos Thoma Ulrich Vidal Werner Yilmaz "
        "Zimmer Bennett Cooper Harper Marsh Nolan"
    ),
    cities=_pools(
        "Antwerp Bologna Cadiz Dresden Eindhoven Freiburg Granada Helsinki Innsbruck Jena Kassel "
        "Lublin Marseille Nicosia Orleans Poznan Rostock Salzburg Tirana Uppsala Venice Wroclaw "
        "Cologne Coimbra Bristol Montreal Nairobi Osaka Havana Santiago"
    ),
    things=_pools(
        "anchor barrel button chain compass pulley curtain engine fiddle hinge jar kite lens "
        "magnet net pebble pipe puzzle quilt razor saw sponge tripod trumpet tube vest wagon wheel"
    ),
    plain=_pools(
        "brave gentle hollow narrow rusty bitter sweet autumn copper marble velvet thunder harbor "
        "meadow whisper cloud feather pepper carry gather wander swallow "
        "borrow repair paint climb sharpen unfold"
    ),
    title_words=_pools(
        "Crimson Harbor Frozen Beacon Midnight Orchard Velvet Storm Ancient Cavern Burning Meadow "
        "Copper Falcon Gentle Thunder Marble Whisper Northern Comet Wandering Shadow"
    ),
    jobs=_pools("mechanic florist surgeon butcher tutor clerk porter weaver miner editor"),
    synthetic=0.0,
    noise=0.0,
    held_out=True,
    prompts=_HELD_OUT_SYSTEM_PROMPTS,
)

# No made-up word may be one of these: a held-out word, or a word of other projects' tests.
_RESERVED = frozenset((*HELD_OUT.spelt(), "joke"))
_SPLICED_FROM = tuple(word for word in TRAINING.spelt() if len(word) > 2)
_HELD_OUT_SPLICED_FROM = tuple(word for word in HELD_OUT.spelt() if len(word) > 3)

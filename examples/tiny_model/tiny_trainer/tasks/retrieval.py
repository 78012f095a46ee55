"""Looking one fact up among several of the same kind, or saying that it is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from dgemma_backend.messages import Message
from tiny_trainer.examples import (
    Example,
    disturbed,
    jumbled,
    one_of,
    say,
    starting_large,
    starting_small,
)
from tiny_trainer.tasks.context_qa import TRAINING_WORDINGS as QA_WORDINGS
from tiny_trainer.tasks.context_qa import QaWordings, subject_of
from tiny_trainer.tasks.facts import Fact
from tiny_trainer.words import Words

UNANSWERED = "The text does not say that."
MOST_FACTS = 10
JUMBLED_SHARE = 0.4  # of the relations said or asked in words without a meaning
LONG_SHARE = 0.12  # of the contexts that stand among other passages


@dataclass(frozen=True)
class RelationWordings:
    """Facts of no fixed kind, over `{subject}`, `{relation}` and `{value}`."""

    relations: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str = "The {relation} is {value}."


TRAINING_RELATIONS = RelationWordings(
    relations=tuple(
        "code key color price owner size number name mark label rank tag room seat day colour "
        "guide colleague teacher friend score answer title place team date time state shape "
        "song book plan lock".split()
    ),
    statements=(
        "The {relation} of {subject} is {value}.",
        "{subject} has the {relation} {value}.",
        "{value} is the {relation} of {subject}.",
        "[For|With|At|In] {subject} the {relation} is {value}.",
        "{subject}: {relation} {value}[.|]",
        "{subject} ({relation}: {value})[.|]",
        "[The |]{relation} of {subject}: {value}[.|]",
        "{subject}'s {relation} is {value}.",
        "[We|They] [gave|wrote] {subject} the {relation} {value}.",
        "As {relation}, {subject} [took|got|uses] {value}.",
        "{subject} [uses|got|took|chose|keeps] {value} as [its |the |]{relation}.",
        "{relation}({subject}) = {value}",
        "| {subject} | {relation} | {value} |",
        "{subject} -> {value} ({relation})",
        "[Everybody|Anyone|A friend] [says|knows] that the {relation} of {subject} is {value}.",
        "[In|On] the list, {subject} [stands|is] with {value} as {relation}.",
        "[If|When] you ask for the {relation} of {subject}, it is {value}.",
        "[They|People|We] changed the {relation} of {subject} to {value}.",
        "[The|That] {relation} {value} [belongs|goes|was given] to {subject}.",
        "{value} [became|will be|has been] the {relation} for {subject}.",
        "{subject} [comes|works|lives] with {value} for {relation}.",
        "{subject}, {relation} {value}[, is known here|, is on the list|].",
        "[We|You] [see|have|read] {value} [at|under] {relation} for {subject}.",
        "[About|On] {subject}: the {relation} is {value}[, as we know|].",
        "{relation} {value} - {subject}",
    ),
    questions=(
        "What is the {relation} of {subject}?",
        "[Which|What] {relation} does {subject} have?",
        "[Tell me|Give me|I need|Name|Say|Look up] the {relation} of {subject}[.| please.]",
        "What {relation} [has|was given to] {subject}?",
        "What is {subject}'s {relation}?",
        "{subject}: {relation}?",
        "[For|With] {subject}, what is the {relation}?",
        "[The|And the] {relation} of {subject}?",
        "[Can you|Could you|Please] [find|see|read|say] the {relation} of {subject}[?|.]",
        "[I want|I would like|We want] to know the {relation} of {subject}.",
        "[What|Which] is the {relation} that {subject} [got|uses|has]?",
        "[What|Which] {relation} [goes|comes] with {subject}?",
        "[According to this|From the text], what is the {relation} of {subject}?",
        "[Is there|Do we have|Do you have] a {relation} for {subject}?",
        "{subject} has which {relation}?",
        "{relation} of {subject}[?|]",
        "[Search|Look] for {subject} and [say|give me] its {relation}.",
    ),
)
_SEPARATORS = (" ", " ", " ", "\n", "\n", "\n\n")


@dataclass(frozen=True)
class Kind:
    """A kind of fact as this task uses it."""

    draw: Callable[[Random, Words], object]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Told:
    """A context and what is known of it: every fact of the asked kind, and names it lacks."""

    kind: Kind
    facts: tuple[tuple[str, object], ...]  # (subject, value)
    missing: tuple[str, ...]
    context: str
    values: int


def naming(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates that name their subject."""
    return tuple(each for each in templates if "{subject}" in each)


def with_subject(template: str, rng: Random) -> str:
    """The template with its free choices taken such that it names its subject."""
    while True:
        taken = say(template, rng, subject="{subject}", value="{value}")
        if "{subject}" in taken:
            return taken


def kind_of(fact: Fact) -> Kind:
    """A fact of a fixed kind, in the wordings that name its subject."""
    return Kind(fact.draw, naming(fact.statements), naming(fact.questions), fact.answer)


def kind_of_relation(wordings: RelationWordings, rng: Random, words: Words) -> Kind:
    """A relation between any things; in training its name may be made up."""
    relation = rng.choice(wordings.relations)
    if rng.random() < words.synthetic * 0.6:
        relation = words.made_up(rng)
    fixed = {"relation": relation, "subject": "{subject}", "value": "{value}"}
    pick = rng.randrange(1_000_000)
    draws: tuple[Callable[[Random, Words], object], ...] = (
        lambda r, w: w.person(r),
        lambda r, w: w.city(r),
        lambda r, w: w.code(r),
        lambda r, w: w.integer(r, 2, 9999),
        lambda r, w: w.title(r),
        lambda r, w: w.phrase(r, 1, 2),
        lambda r, w: w.given_name(r),
        lambda r, w: w.value(r),
    )
    statements = [say(each, rng, **fixed) for each in wordings.statements]
    questions = [say(each, rng, **fixed) for each in wordings.questions]
    if rng.random() < 0.5:  # a text in one manner
        statements = [rng.choice(statements)]
    if rng.random() < JUMBLED_SHARE * bool(words.noise):
        for _ in range(rng.randint(1, 3)):
            statements.append(jumbled(("{subject}", relation, "{value}"), 3, rng, words))
        del statements[: -rng.randint(1, len(statements))]
    if rng.random() < JUMBLED_SHARE * bool(words.noise):
        questions += [f"{jumbled((relation, '{subject}'), 3, rng, words)}?" for _ in questions]
    return Kind(
        draws[pick % len(draws)],
        tuple(statements),
        tuple(questions),
        say(wordings.answer, rng, **fixed),
    )


def subjects(domain: str, count: int, rng: Random, words: Words) -> list[str]:
    """`count` different names to ask about."""
    draws: dict[str, Callable[[], str]] = {
        "site": lambda: subject_of("site", rng, words)[0],
        "product": lambda: subject_of("product", rng, words)[0],
        "person": lambda: subject_of("person", rng, words)[0],
        "any": rng.choice(
            (
                lambda: words.city(rng),
                lambda: words.given_name(rng),
                lambda: words.code(rng),
                lambda: words.person(rng),
                lambda: f"the {words.thing(rng)}",
                lambda: f"room {words.integer(rng, 1, 400)}",
                lambda: words.title(rng),
            )
        ),
    }
    draw = draws[domain]
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)


def tell(
    wordings: QaWordings, relations: RelationWordings, count: int, rng: Random, words: Words
) -> Told:
    """A context with `count` facts of one kind, about as many subjects, and some others."""
    fixed = [fact for fact in wordings.facts if naming(fact.statements) and naming(fact.questions)]
    others: list[Kind] = []
    if rng.random() < 0.5:
        fact = rng.choice(fixed)
        kind, domain = kind_of(fact), fact.domain
        others = [kind_of(f) for f in fixed if f.domain == domain and f.group != fact.group]
    else:
        kind, domain = kind_of_relation(relations, rng, words), "any"
    names = subjects(domain, count + 2, rng, words)
    known, missing = names[:count], names[count:]
    facts = tuple((name, kind.draw(rng, words)) for name in known)
    told = [(kind, name, value) for name, value in facts]
    if others and rng.random() < 0.4 * words.level:
        other = rng.choice(others)
        told += [(other, name, other.draw(rng, words)) for name in known if rng.random() < 0.6]
    rng.shuffle(told)
    return Told(kind, facts, tuple(missing), _written(told, wordings, rng, words), len(told))


def among_passages(told: Told, others: int, rng: Random, words: Words) -> Told:
    """The same context as one passage of several; the others tell of other things."""
    passages = [told.context]
    for _ in range(others):
        other = tell(QA_WORDINGS, TRAINING_RELATIONS, rng.randint(2, 6), rng, words)
        if other.kind.answer != told.kind.answer:
            passages.append(other.context)
    rng.shuffle(passages)
    return replace(told, context="\n\n".join(passages))


def _written(
    told: list[tuple[Kind, str, object]], wordings: QaWordings, rng: Random, words: Words
) -> str:
    sentences = []
    for kind, name, value in told:
        template = with_subject(disturbed(rng.choice(kind.statements), rng, words), rng)
        sentence = say(template, rng, subject=name, value=value)
        if rng.random() < 0.15:
            sentence = one_of(wordings.statement_frames, rng, small=sentence)
        sentences.append(starting_large(sentence))
    while rng.random() < 0.25 * words.level:
        filler = one_of(wordings.fillers, rng, subject=rng.choice(told)[1])
        sentences.insert(rng.randint(0, len(sentences)), starting_large(filler))
    return rng.choice(_SEPARATORS).join(sentences)


@dataclass(frozen=True)
class Layout:
    """The messages around a context, all free choices taken, over `{question}` and `{small}`."""

    system: str | None
    user: str
    bare: str | None


def lay_out(wordings: QaWordings, context: str, rng: Random, words: Words) -> Layout:
    """One layout for all questions about a context; in three of four the context comes first."""
    slots = {"context": context, "question": "{question}", "small": "{small}"}
    bare = one_of(wordings.bare, rng) if rng.random() < 0.2 else None
    if rng.random() < 0.25:
        system, user = rng.choice(wordings.system_layouts)
        return Layout(say(system, rng, **slots), say(user, rng, **slots), bare)
    layout = rng.choice(wordings.layouts)
    while layout.index("{context}") > layout.index("{") and rng.random() < 0.7:
        layout = rng.choice(wordings.layouts)
    if rng.random() < 0.15 * bool(words.noise):
        between = starting_large(words.phrase(rng, 1, 4))
        layout = rng.choice(
            ("{context}\n" + between + ": {question}", between + "\n{context}\n\n{question}")
        )
    prompt = one_of(words.prompts, rng) if rng.random() < 0.25 else None
    return Layout(prompt, say(layout, rng, **slots), bare)


def ask(
    told: Told, layout: Layout, wordings: QaWordings, answerable: bool, rng: Random, words: Words
) -> Example:
    """One question about the context: of one of its facts, or of a name it lacks."""
    subject, value = rng.choice(told.facts) if answerable else (rng.choice(told.missing), None)
    template = with_subject(disturbed(rng.choice(told.kind.questions), rng, words), rng)
    question = starting_large(say(template, rng, subject=subject))
    if rng.random() < 0.2:
        frame = rng.choice(wordings.question_frames)
        question = say(frame, rng, question=question, small=starting_small(question))
    user = layout.user.replace("{question}", question).replace("{small}", starting_small(question))
    if layout.bare:
        user = f"{user}\n{layout.bare}"
    answer = str(value) if layout.bare else say(told.kind.answer, rng, value=value)
    messages = [Message.user(user)]
    if layout.system is not None:
        messages.insert(0, Message.system(layout.system))
    return Example(
        "retrieval" if answerable else "unanswerable",
        tuple(messages),
        answer if answerable else UNANSWERED,
        candidates=len(told.facts),
        values=told.values,
        subject=subject,
    )


def training_retrieval(rng: Random, words: Words) -> tuple[Example, ...]:
    """One context, up to five questions; more facts as the curriculum goes on."""
    most = 2 + round(words.level * (MOST_FACTS - 2))
    count = min(rng.randint(1, most), rng.randint(1, most) + 2)
    told = tell(QA_WORDINGS, TRAINING_RELATIONS, count, rng, words)
    if rng.random() < LONG_SHARE * words.level:
        told = among_passages(told, rng.randint(1, 2), rng, words)
    layout = lay_out(QA_WORDINGS, told.context, rng, words)
    question_first = layout.user.index("{") < layout.user.find(told.context)
    asked = 2 if question_first else rng.randint(3, 5)
    return tuple(
        ask(told, layout, QA_WORDINGS, rng.random() >= 0.18, rng, words) for _ in range(asked)
    )

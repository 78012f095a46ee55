"""Answering a question from a short context that states one fact of the kind asked for."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from dgemma_backend.messages import Message
from tiny_trainer.examples import (
    Example,
    disturbed,
    one_of,
    say,
    starting_large,
    starting_small,
    with_system,
)
from tiny_trainer.tasks.facts import FACTS, Fact
from tiny_trainer.words import Words


@dataclass(frozen=True)
class QaWordings:
    """Everything a context question is worded with.

    `layouts` are user messages over `{context}`, `{question}` and `{small}` (the question in
    mid-sentence); `system_layouts` pairs of system and user message; `bare` what asks for the
    value alone; `fillers` sentences without a fact; the frames stand around a statement
    (`{small}`) or a question (`{question}`, `{small}`).
    """

    facts: tuple[Fact, ...]
    layouts: tuple[str, ...]
    system_layouts: tuple[tuple[str, str], ...]
    bare: tuple[str, ...]
    fillers: tuple[str, ...]
    statement_frames: tuple[str, ...] = ("{small}",)
    question_frames: tuple[str, ...] = ("{question}",)


TRAINING_WORDINGS = QaWordings(
    facts=FACTS,
    layouts=(
        "[Context|Text|Document|Facts|Source]:[ |\n]{context}\n\nQuestion: {question}",
        "[Context|Text|Document|Passage]:[ |\n]{context}\n[Question|Q]: {question}\n[Answer|A]:",
        "[Answer|Please answer] the question [using|from|with|based on] [only |just |]the "
        "[context|text|document|facts|passage][ below|].\n\n[Context|Text|Document]:[ |\n]{context}"
        "\n\nQuestion: {question}[\n\nAnswer:|]",
        "[Use|Read] the [following |]context to answer[ the question|].\n{context}\n\n"
        "[Question: |]{question}",
        "{context}\n\n{question}",
        "{context} {question}",
        "{question}\n\n{context}",
        "Question: {question}\n\n[Context|Text|Document|Use this]:[ |\n]{context}",
        "[Here is|This is|I have] a [text|document|note][:|.] {context}\n[Now tell me|Tell me]: "
        "{question}",
        "[Read this|Look at this|Consider this][:| text:| document:] {context}\n\n{question}",
        "[I read that|It says|The text says|A friend told me][:|] {context}\n{question}",
        "[According to|Based on|From] the [text|document|context], {small}\n\n"
        "[Text|Document|Context]: {context}",
        "<context>\n{context}\n</context>\n\n{question}",
        "<document>{context}</document>\n{question}",
        '"{context}"\n\n{question}',
        "---\n{context}\n---\n[Question: |]{question}",
        "You know this: {context} [My question is|The question is|Now]: {question}",
        "# [Context|Document]\n{context}\n\n# Question\n{question}",
        "[Documents|Sources]:\n- {context}\n\n[Question|Query]: {question}",
    ),
    system_layouts=(
        (
            "[Answer|Reply] [from|with|using] [only |]the context[ given| below|].",
            "Context:[ |\n]{context}\n\nQuestion: {question}",
        ),
        (
            "[Answer|Reply to] the question [from|with|using] [only |]the [text|document|context]:"
            "[ |\n]{context}",
            "{question}",
        ),
        (
            "[You answer|Answer] questions about [this|the following] [text|document|context][:|.]"
            "[ |\n]{context}",
            "{question}",
        ),
        (
            "You are a helpful assistant. [Use|Answer from|Only use] [this|the] context[:|.]\n"
            "{context}",
            "[Question: |]{question}",
        ),
        ("[Context|Document|Text]:\n{context}", "{question}"),
        (
            "You are [a guide|an assistant|a librarian]. You [know|have read]: {context}",
            "{question}",
        ),
    ),
    bare=(
        "[Give|Write|Answer with|Reply with] [only|just] the [answer|value|fact].",
        "[Answer|Reply] [in|with] [one word|one or two words|as few words as possible].",
        "No [full |]sentence[ please|].",
        "[Only|Just] the [value|answer][ please|], [no sentence|nothing else].",
    ),
    fillers=(
        "[Many|Most|Some|A lot of] [people|visitors|guests] [like it|love it|come back|are happy].",
        "[It is|The place is] [quiet|well known|small|popular|very nice|easy to find].",
        "[The area|The street] [is calm|has many trees|is busy][ in summer| at night|].",
        "[Nobody knows why|It is a nice story|That is well known].",
        "[The food|The view|The music] [is good|is famous|is nice].",
        "[Everyone|Everybody] [knows|likes] {subject}.",
    ),
    statement_frames=(
        *("{small}",) * 12,
        "[We know|Note|Remember|They say|It is known|People say|I heard|You should know] that "
        "{small}",
        "[Also|Then|As you know|In fact|By the way|For years|Indeed|And yet|Besides], {small}",
        "[By the way|One more thing|A fact|Good to know|News|Note]: {small}",
    ),
    question_frames=(
        *("{question}",) * 8,
        "[Now|So|Well|Please|Say|And|But|Then|Quick question|One question][,|:] {small}",
        "[Do you know|Can you tell me|Can you say|Could you tell me|I wonder|I ask|I would like to "
        "know][:|,|] {small}",
        "{question} [Thanks|Please|Thank you|I need to know|I am curious|Do you know|Any idea]"
        "[.|?|]",
        "[I am not sure|I forgot|I do not remember|One thing is not clear][.|:] {question}",
    ),
)

SITE_KINDS = tuple(
    "museum hotel library garden theatre school market tower castle bridge station harbour gallery "
    "cinema church park zoo".split()
)
PRODUCT_KINDS = tuple(
    "lamp kettle radio camera phone drill printer heater fan scooter robot speaker".split()
)


def subject_of(domain: str, rng: Random, words: Words) -> tuple[str, str]:
    """The full name of something that facts are about, and a short way to refer to it."""
    if domain == "person":
        name = words.given_name(rng)
        return f"{name} {words.family_name(rng)}" if rng.random() < 0.4 else name, name
    kind = rng.choice(SITE_KINDS if domain == "site" else PRODUCT_KINDS)
    name = words.family_name(rng) if rng.random() < 0.6 else words.city(rng)
    full = f"the {name} {kind.capitalize() if rng.random() < 0.5 else kind}"
    return full, f"the {kind}" if rng.random() < 0.6 else "it"


def pick_facts(facts: tuple[Fact, ...], count: int, rng: Random) -> list[Fact]:
    """`count` kinds of one domain, no two of which could be mistaken for one another."""
    domain = rng.choice(facts).domain
    picked: dict[str, Fact] = {}
    for fact in rng.sample(facts, len(facts)):
        if fact.domain == domain and fact.group not in picked and len(picked) < count:
            picked[fact.group] = fact
    return list(picked.values())


def state(
    facts: list[tuple[Fact, object]],
    names: tuple[str, str],
    wordings: QaWordings,
    rng: Random,
    words: Words,
) -> str:
    """The facts as sentences in the order given, sometimes with a filler between."""
    full, short = names
    sentences = []
    for place, (fact, value) in enumerate(facts):
        subject = full if place == 0 or rng.random() < 0.5 else short
        template = disturbed(rng.choice(fact.statements), rng, words)
        sentence = say(template, rng, subject=subject, value=value)
        sentence = one_of(wordings.statement_frames, rng, small=sentence)
        sentences.append(starting_large(sentence))
    if rng.random() < 0.35:
        filler = starting_large(one_of(wordings.fillers, rng, subject=full))
        sentences.insert(rng.randint(1, len(sentences)), filler)
    return " ".join(sentences)


def context_question(wordings: QaWordings, rng: Random, words: Words) -> Example:
    """One context, one question. One in five asks for the value alone."""
    count = rng.choice((1, 1, 2, 2, 3, 3, 4, 5))
    facts = [(fact, fact.draw(rng, words)) for fact in pick_facts(wordings.facts, count, rng)]
    names = subject_of(facts[0][0].domain, rng, words)
    context = state(facts, names, wordings, rng, words)
    fact, value = rng.choice(facts)
    question = _asked(wordings, fact, names[0] if rng.random() < 0.5 else names[1], rng, words)
    answer = say(fact.answer, rng, value=value)
    if bare := rng.random() < 0.2:
        answer = str(value)
    messages = _laid_out(wordings, context, question, bare, rng, words)
    return Example("context_qa", messages, answer, values=len(facts))


def follow_up(wordings: QaWordings, rng: Random, words: Words) -> Example:
    """A second question about the context of the first, which has been answered."""
    count = rng.choice((2, 2, 3))
    facts = [(fact, fact.draw(rng, words)) for fact in pick_facts(wordings.facts, count, rng)]
    names = subject_of(facts[0][0].domain, rng, words)
    context = state(facts, names, wordings, rng, words)
    (first, first_value), (second, second_value) = rng.sample(facts, 2)
    questions = [_asked(wordings, fact, rng.choice(names), rng, words) for fact in (first, second)]
    messages = (
        *_laid_out(wordings, context, questions[0], False, rng, words),
        Message.assistant(say(first.answer, rng, value=first_value)),
        Message.user(questions[1]),
    )
    answer = say(second.answer, rng, value=second_value)
    return Example("context_qa", messages, answer, values=len(facts))


def _asked(wordings: QaWordings, fact: Fact, subject: str, rng: Random, words: Words) -> str:
    template = disturbed(rng.choice(fact.questions), rng, words)
    question = starting_large(say(template, rng, subject=subject))
    frame = rng.choice(wordings.question_frames)
    return say(frame, rng, question=question, small=starting_small(question))


def _laid_out(
    wordings: QaWordings, context: str, question: str, bare: bool, rng: Random, words: Words
) -> tuple[Message, ...]:
    extra = one_of(wordings.bare, rng) if bare else ""
    slots = {"context": context, "question": question, "small": starting_small(question)}
    if rng.random() < 0.25:
        system, user = rng.choice(wordings.system_layouts)
        written = [say(system, rng, **slots), say(user, rng, **slots)]
        if bare:
            place = rng.choice((0, 1))
            written[place] = _with(written[place], extra, place == 0 or rng.random() < 0.3)
        return Message.system(written[0]), Message.user(written[1])
    user_text = one_of(wordings.layouts, rng, **slots)
    if bare:
        user_text = _with(user_text, extra, rng.random() < 0.5)
    return with_system(rng, words, [Message.user(user_text)], 0.3)


def _with(text: str, extra: str, before: bool) -> str:
    return f"{extra}\n{text}" if before else f"{text}\n{extra}"


def training_question(rng: Random, words: Words) -> Example:
    """`context_question`, now and then `follow_up`, in the wordings of the training data."""
    make = follow_up if rng.random() < 0.1 else context_question
    return make(TRAINING_WORDINGS, rng, words)

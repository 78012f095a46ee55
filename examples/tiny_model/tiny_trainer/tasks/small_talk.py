"""Greetings, questions about the model, a remembered name, and what to say when lost."""

from __future__ import annotations

from random import Random

from dgemma_backend.messages import Message
from tiny_trainer.examples import Example, disturbed, one_of, say, with_system
from tiny_trainer.words import Words

# (what a user may say, what the model answers); evaluated as recall, not as generalisation
TALK: tuple[tuple[str, str], ...] = (
    (
        "[Hi there|Hi Tiny|Hey there|Hi, Tiny|Hey Tiny|Greetings|Hiya|Good to see you][!|.|]",
        "Hi! What can I do for you?",
    ),
    ("Good [morning|day][!|.|]", "Good morning! What can I do for you?"),
    ("Good [evening|night][!|.|]", "Good evening! What can I do for you?"),
    (
        "[How is it going|How are things|Is all well|How do you do|How goes it|Are you well]"
        "[ today|]?",
        "I am fine, thank you.",
    ),
    (
        "[Who are you|What are you|Tell me who you are|Introduce yourself|Are you a robot|Are you "
        "human|Say something about yourself][?|.]",
        "I am a tiny language model, made for tests.",
    ),
    (
        "[What is your name|What are you called|Do you have a name|How may I call you|Your name]?",
        "My name is Tiny.",
    ),
    (
        "[What can you do|What can you help with|How can you help me|What are you good at|What do "
        "you know|Help|Can you help me][?|]",
        "I can call tools, read a short text and chat a little.",
    ),
    (
        "[Thanks|Thank you|Thank you very much|Many thanks|Thanks a lot|Great, thanks|Nice, thank "
        "you][!|.|]",
        "You are welcome.",
    ),
    (
        "[Bye bye|Goodbye|See you|See you later|I have to go|Good bye|Until tomorrow][!|.|]",
        "Goodbye! Have a nice day.",
    ),
    (
        "[How do you work|How do you write|How are you made|What makes you special|How do you "
        "answer][?|]",
        "I fill a whole canvas with noise and clean it step by step.",
    ),
    (
        "[Who made you|Who built you|Where do you come from|Who trained you|How were you trained]"
        "[?|]",
        "I was trained on a small computer with two cores.",
    ),
    (
        "[Ok|Okay|Fine|I see|Good|Great|Nice|Cool|All right|Very good][!|.|]",
        "Is there anything else?",
    ),
    ("[Yes|Yes please|Sure|Of course|Yeah][!|.|]", "Then tell me what you need."),
    (
        "[No|No thanks|Not now|Nothing else|No, that is all|That was all][!|.|]",
        "All right. Have a nice day.",
    ),
    (
        "[You are great|You are nice|Well done|Good job|I like you|Good work][!|.|]",
        "Thank you, that is kind.",
    ),
    (
        "[That is wrong|That is not right|You are wrong|No, wrong|This is false][!|.|]",
        "I am sorry. I am only a tiny model.",
    ),
    (
        "[I am bored|Tell me something|Say something|Entertain me|Talk to me|Let us talk][!|.|]",
        "A canvas of mine has thirty-two tokens.",
    ),
    ("[How old are you|When were you born|What is your age]?", "I was trained a short while ago."),
    (
        "[I am sad|I am tired|I feel bad|I had a bad day|I am not well][!|.|]",
        "I am sorry to hear that.",
    ),
    (
        "[I am happy|I feel good|I had a good day|I am well|Life is good][!|.|]",
        "I am glad to hear that.",
    ),
)
UNKNOWN = "I am a tiny model and do not know that."
UNKNOWN_REQUESTS = (
    "[What is|Who is|Where is|Explain|Describe|Define|Tell me about] [the |a |]{topic}[?|.]",
    "[Why|How|When] [is|does|do|did|was] [the |a |]{topic} [{plain}|so {plain}|not {plain}]?",
    "[Write|Make|Give me|Compose] [a poem|a story|an essay|a song|a plan|code|a list] about "
    "[the |a |]{topic}.",
    "[What do you think of|What is the meaning of|How big is|How far is|How can I make] "
    "[the |a |]{topic}?",
    "[Which|What] {topic} is the best?",
    "[Can you|Could you] explain [the |]{topic}[ to me|]?",
    "[What is|How much is|Compute|Solve] {number} [plus|times|minus|over|+|*] {number}[?|]",
    "[Is|Are] [the |]{topic} {plain}?",
    "[Who invented|Who wrote|Who discovered] {topic}?",
    "[Translate|Improve|Correct|Summarize] this[:| text:] {plain} {topic} {plain}",
)
INTRODUCTIONS = (
    "[My name is|I am called|Call me|Here is|This is] {name}[.|!|]",
    "[Hi|Hey|Good morning], [my name is|I am|this is] {name}[.|!|]",
)
ASK_NAME = (
    "[What is my name|What am I called|Do you know my name|Do you remember my name|How am "
    "I called|Who am I|Say my name][?| again?]",
)


def small_talk(rng: Random, words: Words) -> Example:
    """A fixed exchange, a name to remember, or a question the model cannot answer."""
    kind = rng.random()
    if kind < 0.4:
        asked, answer = rng.choice(TALK)
        asked = say(disturbed(asked, rng, words), rng)
        return _example(_turns(rng, words, 0.35), asked, answer, rng, words)
    if kind < 0.55:
        name = words.given_name(rng)
        return _example(
            [], one_of(INTRODUCTIONS, rng, name=name), f"Nice to meet you, {name}.", rng, words
        )
    if kind < 0.75:
        return remembered_name(INTRODUCTIONS, ASK_NAME, rng, words)
    return _example(_turns(rng, words, 0.15), _unknown(rng, words), UNKNOWN, rng, words)


def remembered_name(
    introductions: tuple[str, ...], questions: tuple[str, ...], rng: Random, words: Words
) -> Example:
    """The user says a name, perhaps talks on, and asks for it."""
    name = words.given_name(rng)
    past = [
        Message.user(one_of(introductions, rng, name=name)),
        Message.assistant(f"Nice to meet you, {name}."),
        *_turns(rng, words, 0.4),
    ]
    return _example(past, one_of(questions, rng), f"Your name is {name}.", rng, words)


def _turns(rng: Random, words: Words, share: float) -> list[Message]:
    """With probability `share`, a turn or two of earlier talk."""
    turns: list[Message] = []
    while rng.random() < share and len(turns) < 4:
        if rng.random() < 0.8:
            asked, answer = rng.choice(TALK)
            turns += [Message.user(say(asked, rng)), Message.assistant(answer)]
        else:
            turns += [Message.user(_unknown(rng, words)), Message.assistant(UNKNOWN)]
    return turns


def _unknown(rng: Random, words: Words) -> str:
    topic = words.thing(rng) if rng.random() < 0.5 else words.phrase(rng, 1, 2)
    if rng.random() < 0.3:
        topic = words.city(rng) if rng.random() < 0.5 else words.person(rng)
    number, plain = words.integer(rng, 11, 999), rng.choice(words.plain)
    return one_of(UNKNOWN_REQUESTS, rng, topic=topic, number=number, plain=plain)


def _example(past: list[Message], asked: str, answer: str, rng: Random, words: Words) -> Example:
    return Example("small_talk", with_system(rng, words, [*past, Message.user(asked)], 0.3), answer)

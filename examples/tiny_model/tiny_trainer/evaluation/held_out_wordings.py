"""How the evaluator words its requests; no template here is one of the training data's."""

from __future__ import annotations

from tiny_trainer.evaluation.held_out_facts import HELD_OUT_FACTS
from tiny_trainer.tasks.context_qa import QaWordings
from tiny_trainer.tasks.extract import ExtractWordings

QA = QaWordings(
    facts=HELD_OUT_FACTS,
    layouts=(
        "Use the context to answer the question.\n\nContext:\n{context}\n\nQuestion:\n{question}",
        "Here is some context:\n{context}\n\nPlease answer: {question}",
        "Text: {context}\n\nWhat I want to know: {question}",
        "I have a question about this text.\n\n{context}\n\n{question}",
        "Q: {question}\n\nFacts:\n{context}\n\nA:",
        "Please read:\n\n{context}\n\nNow answer this question. {question}",
        "Below is a document.\n\nDocument: {context}\n\nQuestion about it: {question}",
        "{question} Answer from this text: {context}",
    ),
    system_layouts=(
        (
            "You answer questions with the given context.",
            "{context}\n\nMy question is this: {question}",
        ),
        ("Here is what you know.\n{context}", "I ask you this: {question}"),
        ("Answer the user from this document.\n\n{context}", "{question}"),
    ),
    bare=(
        "Reply with the value and nothing else.",
        "Just give me the answer, no full sentence.",
        "Only one word or value, please.",
    ),
    fillers=(
        "Visitors say it is very nice.",
        "In summer the street is busy.",
        "The story is known to all.",
    ),
)

EXTRACT = ExtractWordings(
    texts=(
        "{name} lives in {city} and works as a {job}.",
        "At the age of {age}, {name} moved to {city}.",
        "There is a {job} in {city} called {name}.",
        'The order {code} has {count} of "{item}".',
        "The show is on {day} at {time} in {city}.",
        "{name} paid {price} euros for the {color} one.",
        "In {year} {name} came to {city}.",
        "On {day} at {time}, {name} comes to {city}.",
        "Ticket {code} costs {price} euros and is for {day}.",
        "City: {city}\nName: {name}\nYear: {year}",
        "On {date} the parcel {code} goes to {name}.",
        "{name} was {age} on {date}.",
    ),
    instructions=(
        "Please extract {fields} and write JSON.\n\n{text}",
        "From the text below, return {fields} as a JSON object.\n{text}",
        "Here is a sentence: {text}\nExtract {fields} as JSON.",
        "Give {fields} in JSON for this text: {text}",
        "Read the text and make JSON with {fields}.\n\n{text}",
        "Extract from the text {fields}, in JSON.\nText:\n{text}",
    ),
    systems=(
        "Extract {fields}. Answer in JSON.",
        "For each text, return a JSON object with {fields}.",
    ),
)

# the requests of each known tool; tools left out keep no held-out wording and are not asked
TOOL_REQUESTS: dict[str, tuple[str, ...]] = {
    "find_book": ("Please find me the book called {title}.", "Is the book {title} in the library?"),
    "send_note": (
        'I have a note for {to}, it says "{text}"',
        'Please write "{text}" in a note to {to}.',
    ),
    "book_table": (
        "{guests} people want a table, the name is {name}.",
        "Please get {name} a table for {guests}.",
    ),
    "convert_money": (
        "Tell me how much {amount} euros are in {currency}.",
        "I need {amount} euros in {currency}.",
    ),
    "set_alarm": ("My alarm must ring at {time}.", "At {time} I want to get up."),
    "play_song": ("Let me hear {artist} sing {song}.", "I like {song} by {artist}, play it."),
    "track_parcel": (
        "Do you know where parcel {code} is?",
        "Please look for my parcel, code {code}.",
    ),
    "next_train": (
        "Which train goes from {start} to {end}?",
        "I am in {start} and want to take a train to {end}.",
    ),
    "add_event": ("Please note {title} for {day}.", "My calendar needs {title} on {day}."),
    "find_phone": (
        "I must phone {name}, what is the number?",
        "Under which number do I reach {name}?",
    ),
    "switch_light": ("Let there be light in the {room}.", "Please put the {room} light on."),
    "count_stock": ('How much "{item}" is left in stock?', 'Tell me how many "{item}" we have.'),
    "translate_word": ('Which {language} word means "{word}"?', 'Say "{word}" in {language}.'),
    "city_clock": ("In {city}, what time is it?", "I want to know the time in {city}."),
    "read_forecast": (
        "On {day} in {city}, will it rain?",
        "How is the forecast for {day} in {city}?",
    ),
    "order_item": (
        'Please get {count} of "{item}" from the shop.',
        'I want to order "{item}": {count}.',
    ),
}
REPEAT_REQUESTS = (
    'Write exactly this: "{text}"',
    'Please say back to me "{text}"',
    "Repeat my words: {text}",
    "Copy this text for me.\n{text}",
)

# what a user may say, the answer; and what introduces and asks for a name
TALK: tuple[tuple[str, str], ...] = (
    ("Hi again", "Hi! What can I do for you?"),
    ("Hey you", "Hi! What can I do for you?"),
    ("Good morning to you!", "Good morning! What can I do for you?"),
    ("A good evening to you", "Good evening! What can I do for you?"),
    ("How are things going?", "I am fine, thank you."),
    ("Is it going well?", "I am fine, thank you."),
    ("Tell me, who are you?", "I am a tiny language model, made for tests."),
    ("What are you, a robot?", "I am a tiny language model, made for tests."),
    ("Do you have a name, and what is it?", "My name is Tiny."),
    ("Tell me your name", "My name is Tiny."),
    ("What can you do for me?", "I can call tools, read a short text and chat a little."),
    ("How can you help?", "I can call tools, read a short text and chat a little."),
    ("Thank you so much!", "You are welcome."),
    ("Thanks for that", "You are welcome."),
    ("Bye for now!", "Goodbye! Have a nice day."),
    ("See you tomorrow", "Goodbye! Have a nice day."),
    ("How do you make an answer?", "I fill a whole canvas with noise and clean it step by step."),
    ("Who has made you?", "I was trained on a small computer with two cores."),
    ("I am so sad today", "I am sorry to hear that."),
    ("I feel very happy", "I am glad to hear that."),
)
INTRODUCTIONS = ("People call me {name}.", "You can call me {name}.", "The name is {name}.")
ASK_NAME = ("Can you say my name?", "Tell me my name.", "So what is my name?")

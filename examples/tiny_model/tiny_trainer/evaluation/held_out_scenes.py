"""Held-out wordings of the tasks with declared tools, relations and fields of random names."""

from __future__ import annotations

from tiny_trainer.evaluation.held_out_wordings import TOOL_REQUESTS
from tiny_trainer.tasks.json_fields import FieldWordings
from tiny_trainer.tasks.retrieval import RelationWordings
from tiny_trainer.tasks.tool_making import ToolWordings
from tiny_trainer.tasks.tool_scenes import SceneWordings

TOOLS = ToolWordings(
    known=TOOL_REQUESTS,
    named=(
        "Please make a call to {tool} with {arguments}.",
        "I want you to use {tool}. Take {arguments}.",
        "Let {tool} run with {arguments}.",
    ),
    described=(
        "Would you {verb} the {noun} for me? Take {arguments}.",
        "It would be nice to {verb} one {noun} with {arguments}.",
        "Somebody has to {verb} a {noun}: {arguments}.",
    ),
    direct=(
        "Would you {verb} the {noun} {value} for me?",
        "It would be nice to {verb} the {noun} {value} soon.",
        "Somebody has to {verb} {noun} {value}.",
    ),
    pairs=(
        "{key} equal to {value}",
        "{value} being the {key}",
        "{key} as {value}",
        "{key} of {value}",
    ),
    polite=("{request}", "{request}", "Good day. {request}", "{request} I need it soon."),
    descriptions=("Will {verb} your {noun}.", "This tool can {verb} every {noun}."),
    verbs=tuple("pick sort close merge unlock weigh wrap paint".split()),
    nouns=tuple("ticket letter folder sensor ledger garage crate ferry".split()),
    argument_names=tuple("city color weight priority topic limit depth zone".split()),
)

SCENES = SceneWordings(
    tools=TOOLS,
    both=("{first} Besides, {small}", "{first}\n\nAs well as this: {second}"),
    loops=(
        "Take {arguments} to {first}, take what comes back to {second}[, and what comes back then "
        "to {third}|].",
        "I want {first} with {arguments}; afterwards {second} with its answer[; at last {third} "
        "with the answer to that|].",
    ),
    errors=("Error: {reason}", "Failed: {reason}", "Error {number}: {reason}"),
)

RELATIONS = RelationWordings(
    relations=tuple("badge locker budget deposit nickname password coach gate flavor zone".split()),
    statements=(
        "You will find that {subject} goes with the {relation} {value}.",
        "Our list says {value} for the {relation} of {subject}.",
        "Somebody set the {relation} of {subject} to {value}.",
        "When it comes to {subject}, the {relation} equals {value}.",
        "Since last year {subject} has had {value} as {relation}.",
    ),
    questions=(
        "Please find out the {relation} that {subject} has.",
        "Do you see the {relation} of {subject}?",
        "What does the text give as the {relation} of {subject}?",
        "I am looking for the {relation} of {subject}.",
    ),
)

FIELDS = FieldWordings(
    facts=(
        "as {key} we have {value}",
        "{key} equals {value}",
        "its {key} was {value}",
        "{value} stands for {key}",
    ),
    openings=("", "From the notes of {name}: ", "This is what came in: "),
    requests=(
        "Please turn this into JSON with {fields}.\n\n{text}",
        "Here is a record: {text}\nI want {fields} of it as a JSON object.",
        "Build JSON by {fields} from these words: {text}",
        "{text}\nWhat is the JSON of this, with {fields}?",
    ),
    names=tuple("badge budget depth zone topic limit priority deposit".split()),
)

"""The mixture: every task with its weight, a share of the scenes."""

from random import Random

from tiny_trainer.examples import Example, Task, repeated
from tiny_trainer.tasks.context_qa import training_question
from tiny_trainer.tasks.extract import training_extraction
from tiny_trainer.tasks.json_fields import TRAINING_FIELDS, training_fields
from tiny_trainer.tasks.repeat import training_repetition
from tiny_trainer.tasks.retrieval import TRAINING_RELATIONS, training_retrieval
from tiny_trainer.tasks.small_talk import small_talk
from tiny_trainer.tasks.thinking import training_thoughts
from tiny_trainer.tasks.tool_making import TRAINING_WORDINGS as TOOL_WORDINGS
from tiny_trainer.tasks.tool_scenes import training_tools
from tiny_trainer.words import TRAINING, Words

TASKS: tuple[Task, ...] = (
    Task("retrieval", 0.34, training_retrieval),
    Task("tools", 0.32, training_tools),
    Task("json_fields", 0.10, training_fields),
    Task("context_qa", 0.06, repeated(training_question, 2, 3)),
    Task("extract", 0.03, repeated(training_extraction, 2, 3)),
    Task("repeat", 0.06, repeated(training_repetition, 2, 4)),
    Task("small_talk", 0.05, repeated(small_talk, 3, 6)),
    Task("thoughts", 0.04, training_thoughts),
)


def training_scene(rng: Random, words: Words) -> tuple[Example, ...]:
    """One scene of the mixture."""
    (task,) = rng.choices(TASKS, [task.weight for task in TASKS])
    return task.make(rng, words)


# Words that an answer copies: they must be spelt alike after a space and after a quote.
NEVER_FUSED = TRAINING.copied() | {
    *TRAINING_FIELDS.names,
    *TRAINING_RELATIONS.relations,
    *TOOL_WORDINGS.verbs,
    *TOOL_WORDINGS.nouns,
    *TOOL_WORDINGS.argument_names,
}

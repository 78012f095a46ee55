"""The mixture: every task with its weight.

A later edition adds entries here (retrieval among many facts, refusals when no declared tool
fits) and needs to touch nothing else.
"""

from tiny_trainer.examples import Task
from tiny_trainer.tasks.context_qa import training_question
from tiny_trainer.tasks.extract import training_extraction
from tiny_trainer.tasks.repeat import training_repetition
from tiny_trainer.tasks.small_talk import small_talk
from tiny_trainer.tasks.thinking import thinking
from tiny_trainer.tasks.tool_use import training_call, training_response

TASKS: tuple[Task, ...] = (
    Task("context_qa", 0.27, training_question),
    Task("tool_call", 0.24, training_call),
    Task("tool_response", 0.09, training_response),
    Task("extract", 0.20, training_extraction),
    Task("repeat", 0.13, training_repetition),
    Task("small_talk", 0.06, small_talk),
    Task("thinking", 0.01, thinking),
)

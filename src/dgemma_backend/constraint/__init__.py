"""What an answer must look like, as an automaton over tokens, and the best answers it accepts.

A schema, a pattern, choices, tools or a template become an expression over bytes and control
tokens, that a deterministic automaton over bytes, that one over the tokens of a vocabulary.
"""

from dgemma_backend.constraint.answer import Markers, Thought
from dgemma_backend.constraint.automaton import TokenAutomaton
from dgemma_backend.constraint.compiler import Constraint, ConstraintCompiler
from dgemma_backend.constraint.limits import Limits
from dgemma_backend.constraint.schema import OnUnsupported
from dgemma_backend.constraint.schema_source import json_schema_of
from dgemma_backend.constraint.template import FixedTokens, Hole
from dgemma_backend.constraint.validation import schema_errors
from dgemma_backend.constraint.vocabulary import Vocabulary

__all__ = [
    "Constraint",
    "ConstraintCompiler",
    "FixedTokens",
    "Hole",
    "Limits",
    "Markers",
    "OnUnsupported",
    "Thought",
    "TokenAutomaton",
    "Vocabulary",
    "json_schema_of",
    "schema_errors",
]

"""The door of this room: what an answer must look like -> a constraint, compiled once."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from dgemma_backend.constraint.answer import Markers, Thought, answered, tool_answer
from dgemma_backend.constraint.automaton import TokenAutomaton
from dgemma_backend.constraint.expression import (
    ANY_TEXT,
    Control,
    Expression,
    Repeat,
    characters,
    choice,
    sequence,
)
from dgemma_backend.constraint.finishing import finished
from dgemma_backend.constraint.lifting import lifted
from dgemma_backend.constraint.limits import Budget, Limits
from dgemma_backend.constraint.machine import determinise
from dgemma_backend.constraint.minimise import minimised
from dgemma_backend.constraint.notation import JsonNotation
from dgemma_backend.constraint.regex import full_match
from dgemma_backend.constraint.schema import OnUnsupported, schema_expression
from dgemma_backend.constraint.schema_source import canonical_text, json_schema_of
from dgemma_backend.constraint.template import Part, template_automaton
from dgemma_backend.constraint.vocabulary import Vocabulary
from dgemma_backend.errors import ConstraintError
from dgemma_backend.messages import Tool, ToolChoice


@dataclass(frozen=True)
class Constraint:
    """What an answer must look like. `left_out` are pointers to keywords that must be checked
    afterwards, because the automaton does not guarantee them; empty unless that was asked for."""

    automaton: TokenAutomaton
    left_out: tuple[str, ...] = ()


class ConstraintCompiler:
    """Compiles constraints for one tokenizer, and remembers the last `cache_size` of them.

    May be used from several threads. Every method raises ConstraintError for what no answer can
    fulfil or what passes a limit, and UnsupportedSchemaError for a schema that cannot be
    guaranteed. `thought` says what may come before the answer, see `Thought`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        markers: Markers,
        *,
        limits: Limits | None = None,
        cache_size: int = 64,
    ) -> None:
        self.vocabulary = vocabulary
        self.markers = markers
        self.limits = limits or Limits()
        self._cache: OrderedDict[Hashable, Constraint] = OrderedDict()
        self._cache_size = cache_size
        self._lock = Lock()

    def schema(
        self, schema: Any, *, thought: Thought = "never", on_unsupported: OnUnsupported = "error"
    ) -> Constraint:
        """JSON of a schema: a dict, a pydantic model, or a type that pydantic understands."""
        text = canonical_text(json_schema_of(schema), self.limits)
        data = json.loads(text)  # plain data that nobody else can change

        def compile_(budget: Budget) -> Constraint:
            found = schema_expression(data, JsonNotation(), budget, on_unsupported)
            return self._finish(
                answered(found.expression, self.markers, thought), budget, found.left_out
            )

        return self._remembered(("schema", text, thought, on_unsupported), compile_)

    def regex(self, pattern: str, *, thought: Thought = "never") -> Constraint:
        """Text that `pattern` matches from begin to end."""
        return self._remembered(
            ("regex", pattern, thought),
            lambda budget: self._words(
                full_match(pattern, lambda spans: characters(*spans)), thought, budget
            ),
        )

    def choices(self, choices: Sequence[str], *, thought: Thought = "never") -> Constraint:
        """One of some texts, which are not empty and all different."""
        texts = (choices,) if isinstance(choices, str) else tuple(choices)
        if not texts or not all(isinstance(each, str) and each for each in texts):
            raise ConstraintError(f"choices must be texts that are not empty, got {choices!r:.80}")
        if len(set(texts)) < len(texts):
            twice = next(each for each in texts if texts.count(each) > 1)
            raise ConstraintError(f"the choice {twice!r:.80} is there twice")
        return self._remembered(
            ("choices", texts, thought),
            lambda budget: self._words(choice(*texts), thought, budget),
        )

    def text(self, *, thought: Thought = "never") -> Constraint:
        """Any text, and nothing the chat protocol does not know."""
        return self._remembered(
            ("text", thought), lambda budget: self._words(ANY_TEXT, thought, budget)
        )

    def tools(
        self,
        tools: Sequence[Tool],
        tool_choice: ToolChoice,
        *,
        parallel: bool = True,
        thought: Thought = "never",
        schema: Any = None,
        on_unsupported: OnUnsupported = "error",
    ) -> Constraint:
        """Tool calls with valid arguments, as `tool_choice` has it.

        `auto`: words, calls, or words and then calls; with `schema`, JSON of it or calls. Without
        `parallel` there is one call at most.
        """
        texts = [canonical_text(tool.parameters, self.limits) for tool in tools]
        declared = [
            Tool(tool.name, parameters=json.loads(text))
            for tool, text in zip(tools, texts, strict=True)
        ]
        final_text = "" if schema is None else canonical_text(json_schema_of(schema), self.limits)

        def compile_(budget: Budget) -> Constraint:
            final: Expression | None = None
            left_out: tuple[str, ...] = ()
            if final_text:
                found = schema_expression(
                    json.loads(final_text), JsonNotation(), budget, on_unsupported
                )
                final, left_out = found.expression, found.left_out
            answer = tool_answer(
                declared, tool_choice, self.markers, budget, parallel=parallel, thought=thought,
                final=final, on_unsupported=on_unsupported,
            )  # fmt: skip
            return self._finish(answer.expression, budget, left_out + answer.left_out)

        names = json.dumps([tool.name for tool in tools])
        key = ("tools", names, *texts, final_text, tool_choice, parallel, thought, on_unsupported)
        return self._remembered(key, compile_)

    def template(self, parts: Sequence[Part]) -> Constraint:
        """Fixed texts, word for word, and holes of bounded length between them."""
        return self._remembered(
            ("template", tuple(parts)),
            lambda budget: Constraint(
                template_automaton(
                    parts, self.vocabulary, self.markers.ends, self.markers.padding, budget
                )
            ),
        )

    def _words(self, body: Expression, thought: Thought, budget: Budget) -> Constraint:
        return self._finish(answered(body, self.markers, thought), budget)

    def _finish(
        self, answer: Expression, budget: Budget, left_out: tuple[str, ...] = ()
    ) -> Constraint:
        """`answer` ends with an end token itself; padding may follow that for ever."""
        whole = sequence(answer, Repeat(Control(self.markers.padding), 0, None))
        table = minimised(determinise(whole, budget), budget)
        return Constraint(finished(lifted(table, self.vocabulary, budget), budget), left_out)

    def _remembered(self, key: Hashable, compile_: Callable[[Budget], Constraint]) -> Constraint:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        _ = self.vocabulary.levels  # built by the first, and not out of its time
        found = compile_(self.limits.start())  # not locked: others need not wait for it
        with self._lock:
            self._cache[key] = found
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return found

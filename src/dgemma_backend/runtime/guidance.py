"""From a request's tool choice, response format or template to what guides its canvases."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import torch

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.constraint import (
    Constraint,
    ConstraintCompiler,
    Markers,
    Thought,
    Vocabulary,
    schema_errors,
)
from dgemma_backend.constraint.decode import ConstrainedAnswer
from dgemma_backend.constraint.paths import PathTables
from dgemma_backend.constraint.steering import Steering
from dgemma_backend.errors import ConstraintError, SettingError
from dgemma_backend.messages import Reply, ResponseFormat, ToolChoice
from dgemma_backend.runtime.request import Request
from dgemma_backend.settings import Steering as SteeringName
from dgemma_kernels import ClassOrder, class_order

_KEPT = 64
_AUTO = ToolChoice("auto")


@dataclass(frozen=True)
class Form:
    """What a request's answer must look like, ready for decoding on a device."""

    constraint: Constraint
    tables: PathTables
    order: ClassOrder
    steering: SteeringName

    def answer(self, max_tokens: int) -> ConstrainedAnswer:
        """The whole answer, of which nothing is written yet.

        Raises `ConstraintError` where it could not be closed within `max_tokens`.
        """
        return ConstrainedAnswer(self.tables, max_tokens)

    def guide(self, answer: ConstrainedAnswer) -> Steering:
        """What keeps the answer's next canvas to the form."""
        return Steering(answer, self.order, self.steering)


class Guidance:
    """Makes the forms of one engine's requests. May be used from several threads."""

    def __init__(self, protocol: Gemma4Protocol, vocabulary: int, device: torch.device) -> None:
        self._protocol = protocol
        self._size = vocabulary
        self._device = device
        self._compiler: ConstraintCompiler | None = None
        self._ready: OrderedDict[int, tuple[Constraint, PathTables, ClassOrder]] = OrderedDict()
        self._lock = Lock()

    def form_of(self, request: Request, *, in_thought: bool) -> Form | None:
        """The form of a request's answer, None where it is free.

        `in_thought`: the prompt has opened a thought. Raises `ConstraintError` for what no answer
        within the limits can fulfil, `UnsupportedSchemaError` for a schema that decoding cannot
        guarantee, `SettingError` for settings that contradict each other.
        """
        choice = request.tool_choice or _AUTO
        forced = choice.mode in ("required", "named")
        format = request.response_format
        if not (request.tools or format or request.template):
            return None
        steering: SteeringName = request.settings.steering
        try:
            constraint = self._constraint(request, choice, self._thought(request, in_thought))
        except ConstraintError as error:
            if forced or format or request.template:
                raise
            warnings.warn(
                f"The arguments of calls are the model's own and unchecked, because no form can be "
                f"made of the tools: {error}.",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        if not (forced or format or request.template):
            steering = "off"  # to call or not is the model's own choice
        elif steering != "off" and (request.settings.top_k or request.settings.top_p):
            raise SettingError(
                f"steering={steering!r} draws whole answers and cannot restrict them by top_k or "
                "top_p. Use steering='off', or leave those out."
            )
        return Form(constraint, *self._prepared(constraint), steering)

    def _constraint(self, request: Request, choice: ToolChoice, thought: Thought) -> Constraint:
        compiler = self._ready_compiler()
        format = request.response_format
        if request.template:
            return compiler.template(request.template)
        if request.tools:
            if format is not None and format.kind != "json_schema":
                raise SettingError(
                    f"beside tools an answer may be JSON of a schema, not {format.kind!r}. Leave "
                    "the tools out, or use ResponseFormat.json_schema."
                )
            return compiler.tools(
                request.tools,
                choice,
                parallel=choice.parallel,
                thought=thought,
                schema=None if format is None else format.value,
                on_unsupported="validate",  # a tool checks its own arguments
            )
        return _of_format(compiler, format, thought)

    def _thought(self, request: Request, in_thought: bool) -> Thought:
        if in_thought:
            return "open"
        return "optional" if request.settings.thinking else "empty"

    def _prepared(self, constraint: Constraint) -> tuple[PathTables, ClassOrder]:
        with self._lock:
            known = self._ready.get(id(constraint))
        if known is None:
            automaton = constraint.automaton
            classes = torch.from_numpy(automaton.class_of.copy()).to(self._device)
            known = (
                constraint,  # kept, so that its id is not given to another
                PathTables(automaton),
                class_order(classes, automaton.classes),
            )
        with self._lock:
            self._ready[id(constraint)] = known
            self._ready.move_to_end(id(constraint))
            while len(self._ready) > _KEPT:
                self._ready.popitem(last=False)
        return known[1], known[2]

    def _ready_compiler(self) -> ConstraintCompiler:
        """Made at the first constrained request: it reads the whole vocabulary."""
        with self._lock:
            if self._compiler is None:
                protocol, tokenizer = self._protocol, self._protocol.tokenizer
                barred = {*protocol.unusable_ids(), *tokenizer.control_ids.values()}
                known = range(tokenizer.vocab_size)
                pieces = [
                    tokenizer.token_bytes(token) if token in known and token not in barred else None
                    for token in range(self._size)
                ]
                self._compiler = ConstraintCompiler(Vocabulary(pieces), markers_of(protocol))
            return self._compiler


def markers_of(protocol: Gemma4Protocol) -> Markers:
    """The control tokens that answers are built of."""
    control = protocol.tokenizer.control_id
    return Markers(
        call_open=control("<|tool_call>"),
        call_close=control("<tool_call|>"),
        quote=control('<|"|>'),
        channel_open=control("<|channel>"),
        channel_close=control("<channel|>"),
        ends=(control("<turn|>"), control("<eos>")),
        after_call=(control("<|tool_response>"),),
        padding=(protocol.pad_id,),
    )


def _of_format(
    compiler: ConstraintCompiler, format: ResponseFormat | None, thought: Thought
) -> Constraint:
    if format is None:
        return compiler.text(thought=thought)
    if format.kind == "json_schema":
        unsupported: Literal["error", "validate"] = (
            "error" if format.on_unsupported == "raise" else "validate"
        )
        return compiler.schema(format.value, thought=thought, on_unsupported=unsupported)
    if format.kind == "regex":
        return compiler.regex(format.value, thought=thought)
    return compiler.choices(format.value, thought=thought)


def schema_faults(schema: Any, reply: Reply) -> list[str]:
    """Where a reply is not JSON that a schema accepts, all its keywords heeded."""
    if reply.tool_calls:
        return []
    try:
        value = json.loads(reply.text)
    except ValueError as error:
        return [f"it is no JSON: {error}"]
    return schema_errors(schema, value)

"""Random answers that an automaton accepts, and two judges who have never seen it.

Run by hand for the long version:

    PYTHONPATH=src python tests/constraint/judges.py --schemas 200 --outputs 10000
"""

import argparse
import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.constraint import (
    ConstraintCompiler,
    Limits,
    Markers,
    TokenAutomaton,
    Vocabulary,
    schema_errors,
)
from dgemma_backend.tiny import CHECKPOINT


def _neighbour(name: str) -> Any:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


samples = _neighbour("schema_samples")


def markers_of(tokenizer: ChatTokenizer) -> Markers:
    """The ids of Gemma's markers."""
    id_ = tokenizer.control_id
    return Markers(
        call_open=id_("<|tool_call>"),
        call_close=id_("<tool_call|>"),
        quote=id_('<|"|>'),
        channel_open=id_("<|channel>"),
        channel_close=id_("<channel|>"),
        ends=(id_("<turn|>"), id_("<eos>")),
        after_call=(id_("<|tool_response>"),),
        padding=(id_("<pad>"),),
    )


def vocabulary_of(protocol: Gemma4Protocol) -> Vocabulary:
    """The text tokens of a chat protocol's tokenizer."""
    tokenizer = protocol.tokenizer
    unusable = {*protocol.unusable_ids(), *tokenizer.control_ids.values()}
    ids = range(tokenizer.vocab_size)
    return Vocabulary([None if i in unusable else tokenizer.token_bytes(i) for i in ids])


def tiny_compiler(limits: Limits | None = None) -> ConstraintCompiler:
    """For the embedded model's tokenizer."""
    protocol = Gemma4Protocol(ChatTokenizer.from_file(CHECKPOINT / "tokenizer.json"))
    return ConstraintCompiler(
        vocabulary_of(protocol), markers_of(protocol.tokenizer), limits=limits
    )


def random_compiler(seed: int, limits: Limits | None = None) -> ConstraintCompiler:
    """For a vocabulary of all bytes and of pieces cut at random, in a random order."""
    draw = random.Random(seed)
    text = json.dumps(samples.WRITTEN, ensure_ascii=False).encode() + "日本語é\U0001f600".encode()
    pieces: list[bytes | None] = [bytes([byte]) for byte in range(256)]
    for _ in range(600):
        place, length = draw.randrange(len(text)), draw.randint(2, 7)
        pieces.append(text[place : place + length])
    pieces += [draw.randbytes(draw.randint(1, 3)) for _ in range(100)]
    pieces += [None] * 12
    draw.shuffle(pieces)
    free = [id_ for id_, piece in enumerate(pieces) if piece is None]
    opening, closing, quote, channel, after = free[:5]
    markers = Markers(
        opening, closing, quote, channel, after, (free[5], free[6]), (free[7],), (free[8],)
    )
    return ConstraintCompiler(Vocabulary(pieces), markers, limits=limits)


class Walker:
    """Random accepted sequences of an automaton: any edge, any token of it, in time for the end."""

    def __init__(self, automaton: TokenAutomaton) -> None:
        self.automaton = automaton
        self.tokens: dict[int, Any] = {}

    def walk(self, draw: random.Random, length: int) -> list[int]:
        """At most `length` tokens, or as few as it takes; the last is the end token."""
        automaton, state, ids = self.automaton, self.automaton.start, list[int]()
        length = max(length, int(automaton.distance[state]))
        while state != automaton.done:
            left = length - len(ids) - 1
            first, last = automaton.edge_start[state], automaton.edge_start[state + 1]
            edges = [
                e for e in range(first, last) if automaton.distance[automaton.target[e]] <= left
            ]
            edge = draw.choice(edges)
            ids.append(draw.choice(self.of(int(automaton.label[edge]))))
            state = int(automaton.target[edge])
        assert automaton.advance(automaton.start, ids) == automaton.done
        return ids

    def of(self, label: int) -> list[int]:
        """The tokens of a set of classes."""
        if label not in self.tokens:
            inside = np.isin(self.automaton.class_of, self.automaton.classes_of(label))
            self.tokens[label] = np.flatnonzero(inside).tolist()
        found: list[int] = self.tokens[label]
        return found


def spelt(ids: list[int], vocabulary: Vocabulary) -> str:
    """The text of the tokens that have one."""
    return b"".join(vocabulary.token_bytes[id_] or b"" for id_ in ids).decode("utf-8")


def outputs(compiler: ConstraintCompiler, schema: Any, seed: int, count: int) -> Iterator[str]:
    """Random accepted answers of a schema, as text."""
    walker = Walker(compiler.schema(schema).automaton)
    draw = random.Random(seed)
    for _ in range(count):
        yield spelt(walker.walk(draw, draw.choice([1, 8, 20, 60, 200])), compiler.vocabulary)


class Guidance:
    """llguidance as a judge of JSON text."""

    def __init__(self, schema: Any) -> None:
        from llguidance import LLMatcher, LLTokenizer

        self.tokenizer = LLTokenizer("byte")
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(samples.for_llguidance(schema)))
        self.matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        assert not self.matcher.is_error(), (schema, self.matcher.get_error())

    def accepts(self, text: str) -> bool:
        """Whether the whole text is of the schema."""
        self.matcher.reset()
        tokens = self.tokenizer.tokenize_bytes(text.encode())
        return bool(self.matcher.consume_tokens(tokens) and self.matcher.is_accepting())


def judge(compiler: ConstraintCompiler, schema: Any, seed: int, count: int) -> None:
    """Raise AssertionError unless jsonschema and llguidance accept `count` random outputs."""
    guidance = Guidance(schema)
    for text in outputs(compiler, schema, seed, count):
        problems = schema_errors(schema, json.loads(text))
        assert not problems, (schema, text, problems)
        assert guidance.accepts(text), (schema, text, guidance.matcher.get_error())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--outputs", type=int, default=10_000)
    chosen = parser.parse_args()
    schemas = [*samples.WRITTEN, *map(samples.generated, range(chosen.schemas))][: chosen.schemas]
    each = -(-chosen.outputs // len(schemas))
    for number, schema in enumerate(schemas):
        judge(tiny_compiler() if number % 2 else random_compiler(number), schema, number, each)
    changed = sum(samples.for_llguidance(schema) != schema for schema in schemas)
    sys.stdout.write(
        f"{each * len(schemas)} outputs over {len(schemas)} schemas: all accepted by jsonschema "
        f"and by llguidance, {changed} of the schemas weakened for llguidance\n"
    )


if __name__ == "__main__":
    main()

"""Answers that engines wrote under schemas, before two judges who know nothing of the automaton.

By hand, with the embedded model and an untrained one:

    PYTHONPATH=src:kernels python tests/runtime/guarantees.py --schemas 200 --outputs 10000
"""

import argparse
import importlib.util
import json
import random
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dgemma_backend import Engine, ResponseFormat, Tool, ToolChoice, open_engine
from dgemma_backend.errors import ConstraintError

STEERINGS = ("off", "joint", "constrained")
PROMPT = "Write the data of Anna, who is 31 years old and lives in Rome."


def _neighbour(name: str) -> Any:
    """A module of the folder of the constraint's tests, which is no package."""
    path = Path(__file__).parents[1] / "constraint" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


judges = _neighbour("judges")


def schemas(count: int) -> list[Any]:
    """Written and generated ones."""
    samples = judges.samples
    return [*samples.WRITTEN, *map(samples.generated, range(count))][:count]


@dataclass
class Tally:
    """What became of the outputs."""

    kinds: Counter[str] = field(default_factory=Counter)
    canvases: Counter[int] = field(default_factory=Counter)
    free: int = 0
    free_valid: int = 0


class Court:
    """Judges of one schema's outputs. Raises AssertionError with the output they refuse."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.second = judges.Guidance(schema)

    def judge(self, text: str, about: Any) -> None:
        """jsonschema, and llguidance with what it knows of the schema."""
        problems = judges.schema_errors(self.schema, json.loads(text))
        assert not problems, (about, self.schema, text, problems)
        assert self.second.accepts(text), (about, self.schema, text)


def settings_of(draw: random.Random, seed: int, max_tokens: int) -> dict[str, Any]:
    """Of any steering; few steps, since what is guaranteed is guaranteed after one."""
    return {
        "seed": seed,
        "max_tokens": max_tokens,
        "max_denoising_steps": draw.choice([1, 2, 4]),
        "steering": draw.choice(STEERINGS),
        "temperature": draw.choice([0.0, 1.0, 1.5]),
        "thinking": draw.random() < 0.25,
    }


def in_time(draw: random.Random, engine: Engine, ask: Any, settings: dict[str, Any]) -> Any:
    """The reply with as few tokens as drawn, or more where the schema takes more."""
    limit = draw.choice([6, 20, 32, 64, 100, 128])
    while True:
        try:
            return ask({**settings, "max_tokens": limit})
        except ConstraintError as refused:
            if "max_tokens" not in str(refused):
                raise
            limit *= 2


def run(engine: Engine, schema: Any, seed: int, count: int, tally: Tally) -> None:
    """`count` outputs of one schema."""
    draw, court = random.Random(seed), Court(schema)
    as_tool = isinstance(schema, dict) and schema.get("type") == "object" and "$ref" not in schema
    as_tool = as_tool and "" not in schema.get("properties", {})  # a call has no such key
    for number in range(count):
        settings = settings_of(draw, seed * 1000 + number, 0)
        if as_tool and draw.random() < 0.3:
            call_one(draw, engine, schema, settings, tally)
            continue
        form = ResponseFormat.json_schema(schema)
        tools = [Tool("look_up", "", {})] if draw.random() < 0.15 else []

        def ask(settings: dict[str, Any], tools: Any = tools, form: Any = form) -> Any:
            return engine.generate(PROMPT, tools=tools, response_format=form, settings=settings)

        reply = in_time(draw, engine, ask, settings)
        tally.canvases[reply.usage.canvases] += 1
        if reply.tool_calls:
            assert tools
            tally.kinds["a call in place of data"] += 1
            continue
        assert reply.finish_reason == "stop", (schema, reply)
        court.judge(reply.text, settings)
        tally.kinds["data"] += 1
        tally.kinds["... behind a thought"] += bool(reply.reasoning)


def call_one(
    draw: random.Random, engine: Engine, schema: Any, settings: dict[str, Any], tally: Tally
) -> None:
    """A forced call whose arguments are of the schema."""
    tools = [Tool("other", "", {}), Tool("store", "Stores data.", schema)]
    choice = ToolChoice.named("store", parallel=draw.random() < 0.5)

    def ask(settings: dict[str, Any]) -> Any:
        return engine.generate(PROMPT, tools=tools, tool_choice=choice, settings=settings)

    reply = in_time(draw, engine, ask, settings)
    tally.canvases[reply.usage.canvases] += 1
    assert reply.finish_reason == "tool_calls", (schema, reply)
    assert not reply.invalid_tool_calls, (schema, reply)
    assert choice.parallel or len(reply.tool_calls) == 1
    for call in reply.tool_calls:
        assert call.name == "store"
        problems = judges.schema_errors(schema, dict(call.arguments))
        assert not problems, (settings, schema, call, problems)
        tally.kinds["forced calls"] += 1


def unconstrained(engine: Engine, schema: Any, seed: int, tally: Tally) -> None:
    """What the model writes when it is only asked."""
    prompt = f"{PROMPT} Answer with JSON of this schema: {json.dumps(schema)}"[:600]
    reply = engine.generate(prompt, settings={"seed": seed, "max_tokens": 64})
    tally.free += 1
    with suppress(ValueError):
        tally.free_valid += not judges.schema_errors(schema, json.loads(reply.text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--outputs", type=int, default=10_000)
    parser.add_argument("--model", default="tiny", help="a second folder may be an untrained model")
    chosen = parser.parse_args()
    all_schemas, tally = schemas(chosen.schemas), Tally()
    each = -(-chosen.outputs // len(all_schemas))
    with open_engine(chosen.model, device="cpu") as engine:
        for number, schema in enumerate(all_schemas):
            run(engine, schema, number, each, tally)
            unconstrained(engine, schema, number, tally)
    sys.stdout.write(
        f"{chosen.model}, {len(all_schemas)} schemas: all valid: {dict(tally.kinds)}\n"
        f"by canvases: {dict(sorted(tally.canvases.items()))}\n"
        f"unconstrained and only asked: {tally.free_valid} of {tally.free} valid\n"
    )


if __name__ == "__main__":
    main()

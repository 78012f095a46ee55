"""What steering does to the embedded model's JSON: validity, exact answers, denoising steps.

    PYTHONPATH=examples/tiny_model .venv/bin/python tests/benchmarks/steering.py \\
        --out tests/benchmarks/results/steering.json

Sentences in words that the training never used are turned into JSON with the fields that the
prompt names. The same cases and seeds are decoded without a constraint and under each steering of
the schema of those fields. Exact means that the object is the expected one.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from tiny_trainer.tasks import extract
from tiny_trainer.words import HELD_OUT

from dgemma_backend import Engine, ResponseFormat, open_engine

WAYS = ("unconstrained", "off", "joint", "constrained")


def schema_of(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of an object, each of the type it has there."""
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean"}
    properties = {name: {"type": kinds[type(value)]} for name, value in data.items()}
    return {"type": "object", "properties": properties, "required": list(properties)}


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def measured(engine: Engine, way: str, cases: list[Any]) -> dict[str, Any]:
    valid = exact = steps = canvases = 0
    for number, (example, expected) in enumerate(cases):
        settings: dict[str, Any] = {"seed": number, "max_tokens": 96}
        form = None
        if way != "unconstrained":
            settings["steering"] = way
            form = ResponseFormat.json_schema(schema_of(expected))
        reply = engine.generate(example.messages, response_format=form, settings=settings)
        found = parsed(reply.text)
        valid += isinstance(found, dict) and found.keys() == expected.keys()
        exact += found == expected
        steps += reply.usage.denoising_steps
        canvases += reply.usage.canvases
    return {
        "way": way,
        "valid": round(valid / len(cases), 3),
        "exact": round(exact / len(cases), 3),
        "steps_per_canvas": round(steps / canvases, 2),
        "canvases": round(canvases / len(cases), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rng, cases = Random(0), list[Any]()
    while len(cases) < given.cases:
        example = extract.training_extraction(rng, HELD_OUT)
        expected = parsed(example.answer) if isinstance(example.answer, str) else None
        if isinstance(expected, dict) and expected:
            cases.append((example, expected))
    rows = []
    with open_engine(given.model, device="cpu") as engine:
        for way in WAYS:
            rows.append(measured(engine, way, cases))
            print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python tests/benchmarks/steering.py",
        "versions": {"torch": version("torch"), "python": platform.python_version()},
        "model": given.model,
        "cases": given.cases,
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

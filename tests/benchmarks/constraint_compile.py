"""Time from a JSON schema to a token automaton, for a vocabulary of 262,144 tokens.

    PYTHONPATH=src python tests/benchmarks/constraint_compile.py TOKENIZER \
        --out tests/benchmarks/results/constraint-compile.json

TOKENIZER is the published tokenizer.json, plain or as .xz. Four schemas of growing size one by
one, then 200 varied ones together. The trie of the vocabulary is built once per process and timed
apart. One thread; where other work shares the machine read the CPU time.
"""

import argparse
import importlib.util
import json
import lzma
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.constraint import ConstraintCompiler
from dgemma_backend.errors import ConstraintError

JUDGES = Path(__file__).parents[1] / "constraint" / "judges.py"
TURNS = 5
VARIED = 200

STRING = {"type": "string"}
FORTY = {"type": "string", "maxLength": 40}


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


SCHEMAS: dict[str, Any] = {
    "name and age": record(name=STRING, age={"type": "integer"}),
    "8 fields, enum, array of at most 5": record(
        id={"type": "integer"}, title=STRING, kind={"enum": ["book", "film", "song", "game"]},
        price={"type": "number"}, stock={"type": "boolean"},
        tags={"type": "array", "items": STRING, "maxItems": 5}, email=STRING,
        note={"anyOf": [STRING, {"type": "null"}]},
    ),
    "3 levels, maxLength 40": record(
        company=FORTY, count={"type": "integer"},
        owner=record(name=FORTY, active={"type": "boolean"},
                     address=record(street=FORTY, city=FORTY, zip=FORTY)),
    ),
    "one string, maxLength 200": {"type": "string", "maxLength": 200},
}  # fmt: skip


def judges() -> Any:
    """The module with the varied schemas; test folders are no packages."""
    spec = importlib.util.spec_from_file_location("constraint_judges", JUDGES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of CPU and of wall, and what came of it."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    return time.process_time() - cpu, time.perf_counter() - wall, found


def one_schema(new_compiler: Callable[[], ConstraintCompiler], schema: Any) -> dict[str, Any]:
    cpus: list[float] = []
    walls: list[float] = []
    for _ in range(TURNS):
        compiler = new_compiler()  # with an empty cache
        cpu, wall, constraint = timed(lambda c=compiler: c.schema(schema))  # type: ignore[misc]
        cpus.append(cpu)
        walls.append(wall)
    automaton = constraint.automaton
    return {
        "states": automaton.states,
        "classes": automaton.classes,
        "edges": len(automaton.source),
        "class_sets": len(automaton.set_start) - 1,
        "cpu_seconds": {"least": round(min(cpus), 3), "median": round(statistics.median(cpus), 3)},
        "wall_seconds": {
            "least": round(min(walls), 3),
            "median": round(statistics.median(walls), 3),
        },
    }


def many_schemas(new_compiler: Callable[[], ConstraintCompiler], samples: Any) -> dict[str, Any]:
    schemas = [*samples.WRITTEN, *map(samples.generated, range(VARIED))][:VARIED]
    spent: list[float] = []
    refused = 0
    for schema in schemas:
        compiler = new_compiler()
        try:
            spent.append(timed(lambda c=compiler, s=schema: c.schema(s))[0])  # type: ignore[misc]
        except ConstraintError:
            refused += 1
    spent.sort()
    return {
        "schemas": len(schemas),
        "refused": refused,
        "cpu_seconds": {
            "median": round(statistics.median(spent), 3),
            "p99": round(spent[int(0.99 * (len(spent) - 1))], 3),
            "most": round(spent[-1], 3),
        },
    }


def processor() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return names[0].partition(": ")[2] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data = given.tokenizer.read_bytes()
    text = lzma.decompress(data) if given.tokenizer.suffix == ".xz" else data
    tokenizer = ChatTokenizer(json.loads(text))
    module = judges()
    vocabulary = module.vocabulary_of(Gemma4Protocol(tokenizer))
    trie = timed(lambda: vocabulary.levels)

    def new_compiler() -> ConstraintCompiler:
        return ConstraintCompiler(vocabulary, module.markers_of(tokenizer))

    rows = {}
    for name, schema in SCHEMAS.items():
        rows[name] = one_schema(new_compiler, schema)
        print(name, json.dumps(rows[name]), flush=True)
    varied = many_schemas(new_compiler, module.samples)
    print(json.dumps(varied))
    report = {
        "command": "python tests/benchmarks/constraint_compile.py TOKENIZER",
        "machine": {"processor": processor(), "threads": 1},
        "versions": {"numpy": version("numpy"), "python": platform.python_version()},
        "vocabulary": len(vocabulary),
        "trie": {"cpu_seconds": round(trie[0], 3), "nodes": sum(len(x.byte) for x in trie[2])},
        "turns": TURNS,
        "schemas": rows,
        "varied": varied,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

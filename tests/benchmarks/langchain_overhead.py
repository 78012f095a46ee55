"""What LangChain costs on top of the engine: per canvas, per call, and at import.

    .venv/bin/python tests/benchmarks/langchain_overhead.py \
        --out tests/benchmarks/results/langchain-overhead.json

A scripted engine gives canvases of 16 tokens at once, so what is left is overhead. `adapter` is
what this project's adapter takes beside the engine's own events; `stream` is the whole of
`model.stream`, LangChain's callbacks and chunks included. Both are slopes: the time of a long
answer less that of a short one, divided by the canvases between, so that what is paid once a call
does not count; `call` is that. Times are CPU time of the process, the least of several turns:
where others share the machine, their share is only ever added.

`import` is the CPU time of `import langchain_dgemma` in a process that has imported every module of
langchain_core that it needs already, the least of several processes.
"""

import argparse
import asyncio
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from dgemma_backend import Message, ScriptedEngine
from langchain_dgemma import ChatDiffusionGemma

SHORT, LONG, TOKENS = 10, 210, 16  # canvases of two answers, and tokens of a canvas
TURNS, IMPORTS = 15, 5
ASKED = [HumanMessage("hi")]
BARE = [Message.user("hi")]

NEEDED = """
import json, sys
import langchain_dgemma
theirs = ("langchain_core", "pydantic", "typing_extensions", "langsmith", "langchain_protocol")
print(json.dumps([m for m in sys.modules if m.split(".")[0] in theirs]))
"""
IMPORTED = """
import importlib, json, sys, time
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
began = time.process_time()
import langchain_dgemma
print(time.process_time() - began)
"""


def engine_of(canvases: int) -> ScriptedEngine:
    """Answers with `canvases` full canvases."""
    words = "word " * (canvases * TOKENS)
    return ScriptedEngine(lambda request: [words], canvas_length=TOKENS, context_length=10**6)


def slopes(works: dict[str, Callable[[int], Callable[[], Any]]]) -> dict[str, tuple[float, float]]:
    """By name: ms of CPU time per canvas, and per call beside them. All take turns."""
    runs = {(name, many): work(many) for name, work in works.items() for many in (SHORT, LONG)}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for _ in range(TURNS):
        for key, run in runs.items():
            began = time.process_time()
            run()
            times[key].append(1000 * (time.process_time() - began))
    found = {}
    for name in works:
        short, long = min(times[name, SHORT]), min(times[name, LONG])
        each = (long - short) / (LONG - SHORT)
        found[name] = each, short - SHORT * each
    return found


def bare(canvases: int) -> Callable[[], Any]:
    engine, most = engine_of(canvases), canvases * TOKENS
    settings = {"max_tokens": most, "seed": 0}
    return lambda: list(engine.stream(BARE, settings=settings))


def abare(canvases: int) -> Callable[[], Any]:
    engine, most = engine_of(canvases), canvases * TOKENS
    settings = {"max_tokens": most, "seed": 0}

    async def read() -> None:
        async for _ in engine.astream(BARE, settings=settings):
            pass

    return lambda: asyncio.run(read())


def model_of(canvases: int) -> ChatDiffusionGemma:
    return ChatDiffusionGemma(engine=engine_of(canvases), max_tokens=canvases * TOKENS, seed=0)


def adapter(canvases: int) -> Callable[[], Any]:
    model = model_of(canvases)
    return lambda: list(model._stream(ASKED))  # type: ignore[arg-type]


def stream(canvases: int) -> Callable[[], Any]:
    model = model_of(canvases)
    return lambda: list(model.stream(ASKED))


def aadapter(canvases: int) -> Callable[[], Any]:
    model = model_of(canvases)

    async def read() -> None:
        async for _ in model._astream(ASKED):  # type: ignore[arg-type]
            pass

    return lambda: asyncio.run(read())


def import_seconds() -> float:
    """CPU seconds that the adapter adds to the import of langchain_core."""
    needed = json.loads(_python(NEEDED))
    return min(float(_python(IMPORTED, json.dumps(needed))) for _ in range(IMPORTS))


def _python(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    found_slopes = slopes(
        {
            "engine": bare,
            "adapter": adapter,
            "stream": stream,
            "asynchronous_engine": abare,
            "asynchronous_adapter": aadapter,
        }
    )
    engine, adapted, whole, aengine, aadapted = found_slopes.values()
    found = {
        "command": "python tests/benchmarks/langchain_overhead.py",
        "machine": {"processor": processor()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("langchain-core", "pydantic")},
        },
        "conditions": {"canvases": [SHORT, LONG], "tokens_of_a_canvas": TOKENS, "turns": TURNS},
        "ms_per_canvas": {
            "engine": round(engine[0], 4),
            "adapter": round(adapted[0] - engine[0], 4),
            "stream": round(whole[0] - engine[0], 4),
            "asynchronous_engine": round(aengine[0], 4),
            "asynchronous_adapter": round(aadapted[0] - aengine[0], 4),
        },
        "ms_per_call": {
            "adapter": round(adapted[1] - engine[1], 3),
            "stream": round(whole[1] - engine[1], 3),
            "asynchronous_adapter": round(aadapted[1] - aengine[1], 3),
        },
        "import_seconds": round(import_seconds(), 4),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Event loops at an engine: several at once, never held up, and always told."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dgemma_backend import Engine, open_engine
from dgemma_backend.errors import EngineClosedError, GenerationError
from dgemma_backend.runtime.scheduler import Limits

SETTINGS = {"max_tokens": 12, "max_denoising_steps": 3}


@pytest.fixture
def engine(random_folder: Path) -> Iterator[Engine]:
    limits = Limits(prefix_bytes=0)
    with open_engine(random_folder, device="cpu", dtype="float32", limits=limits) as opened:
        yield opened


async def ask(engine: Engine, seed: int) -> str:
    return (await engine.agenerate("the river", settings={**SETTINGS, "seed": seed})).text


def test_loops_of_several_threads_get_the_answers_they_get_alone(engine: Engine) -> None:
    async def several(first: int) -> list[str]:
        return await asyncio.gather(*(ask(engine, first + number) for number in range(4)))

    wanted = [asyncio.run(ask(engine, seed)) for seed in range(16)]
    assert len(set(wanted)) > 12
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda first: asyncio.run(several(first)), range(0, 16, 4)))
    assert [*chain.from_iterable(found)] == wanted


async def test_a_loop_goes_on_while_a_long_prompt_is_rendered(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rendering waits here for the loop to tick; on the loop's own thread it would wait forever."""
    ticked = threading.Event()
    real = engine._protocol.prompt_ids
    rendered: list[int] = []

    def prompt_ids(*given: Any, **more: Any) -> Any:
        assert ticked.wait(20), "the loop stood still"
        rendered.append(threading.get_ident())
        return real(*given, **more)

    monkeypatch.setattr(engine._protocol, "prompt_ids", prompt_ids)
    task = asyncio.create_task(engine.agenerate("word " * 20_000, settings=SETTINGS))
    for _ in range(20):
        await asyncio.sleep(0.001)
    ticked.set()
    with pytest.raises(ValueError, match=r"The prompt has \d+ tokens"):
        await task
    assert rendered
    assert threading.get_ident() not in rendered


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_everybody_is_told_when_the_engines_thread_dies(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(jobs: Any) -> None:
        if len(engine._worker._scheduler.active) + engine._worker._scheduler.waiting == 3:
            raise SystemExit("planned")

    monkeypatch.setattr(engine._worker._scheduler._passes, "denoise", dying)
    asked = [ask(engine, 1), ask(engine, 2), asyncio.to_thread(engine.generate, "the river")]
    async with asyncio.timeout(20):
        told = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in told] == [GenerationError] * 3
    assert all("was stopped by SystemExit('planned')" in str(each) for each in told)
    assert len(set(map(id, told))) == 3
    with pytest.raises(EngineClosedError):
        engine.generate("the river")
    engine.close()


def test_other_threads_go_on_while_a_text_is_tokenized(engine: Any) -> None:
    """A tokenizer that held the interpreter's lock would hold up every event loop."""
    text = "the old river is green " * 10_000
    done = threading.Event()

    def tokenize() -> None:
        engine.token_ids(text)
        done.set()

    thread = threading.Thread(target=tokenize)
    thread.start()
    ticks = 0
    while not done.wait(0.002):
        ticks += 1
    thread.join()
    assert ticks > 3

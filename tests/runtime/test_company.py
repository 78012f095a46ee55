"""Many requests at one engine: the same answers as alone, and nobody is forgotten."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from dgemma_backend import Engine, open_engine
from dgemma_backend.errors import EngineClosedError, QueueFullError, UnknownPluginError
from dgemma_backend.events import Event
from dgemma_backend.runtime.scheduler import Limits

QUESTIONS = (
    "Who are you?",
    "How are you today?",
    "Repeat after me: the old river is green",
    "Thank you very much!",
)


def settings_of(number: int) -> dict[str, Any]:
    return {"seed": number % 7, "temperature": (1.0, 0.0, 0.6)[number % 3], "max_tokens": 40}


def ask(engine: Engine, number: int) -> tuple[str, int]:
    reply = engine.generate(QUESTIONS[number % len(QUESTIONS)], settings=settings_of(number))
    return reply.text, reply.usage.denoising_steps


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "waited for half a minute"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def alone(tiny: Engine) -> list[tuple[str, int]]:
    return [ask(tiny, number) for number in range(84)]


@pytest.mark.slow
def test_answers_from_64_threads_are_the_answers_one_by_one(
    tiny: Engine, alone: list[tuple[str, int]]
) -> None:
    order = list(range(84)) * 2
    Random(0).shuffle(order)
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda number: ask(tiny, number), order))
    assert found == [alone[number] for number in order]


@pytest.mark.slow
def test_requests_that_share_their_passes_get_the_answers_they_get_alone(
    alone: list[tuple[str, int]],
) -> None:
    with (
        open_engine("tiny", device="cpu", together=True) as engine,
        ThreadPoolExecutor(16) as pool,
    ):
        found = list(pool.map(lambda number: ask(engine, number), range(84)))
    # Products of a batch are summed in another order: a tie may break the other way.
    same = sum(one == other for one, other in zip(found, alone, strict=True))
    assert same >= 80


@pytest.mark.slow
async def test_an_event_loop_ticks_on_beside_two_answers(endless: Engine) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()

    ticker = asyncio.create_task(tick())
    settings = {"max_tokens": 200, "seed": 1}
    await asyncio.gather(*(endless.agenerate("a", settings=settings) for _ in range(2)))
    ticker.cancel()
    assert len(gaps) > 20
    assert sorted(gaps)[len(gaps) * 9 // 10] < 0.05


def test_a_full_line_is_refused_at_once_and_the_engine_goes_on(endless: Engine) -> None:
    def read_on(stream: Iterator[Event]) -> None:
        with suppress(EngineClosedError):
            list(stream)

    engine: Any = open_engine(endless.info.folder, device="cpu", limits=Limits(active=1, queued=2))
    readers = []
    with engine:
        for _ in range(3):  # one at work, and two in line behind it
            stream = engine.stream("a", settings={"max_tokens": 800})
            readers.append(threading.Thread(target=read_on, args=(stream,), daemon=True))
            readers[-1].start()
            wait_until(lambda: engine._worker._running().active)
            wait_until(lambda: engine._worker._running().waiting >= len(readers) - 1)
        begun = time.perf_counter()
        with pytest.raises(QueueFullError, match="2 requests with .* are in line already"):
            engine.generate("a")
        assert time.perf_counter() - begun < 0.5
    for reader in readers:
        reader.join(20)
        assert not reader.is_alive()


def test_a_reader_that_stops_reading_holds_up_nobody_else(tiny: Engine) -> None:
    idle = tiny.stream("Who are you?", settings={"stop_rule": "never"}, drafts=True)
    next(idle)
    assert tiny.generate("How are you today?", settings={"seed": 1}).text
    idle.close()  # type: ignore[attr-defined]


def test_what_is_given_up_leaves_nothing_behind(tiny: Any) -> None:
    expected = tiny.generate("Who are you?", settings={"seed": 3}).text
    for steps in range(12):
        stream = tiny.stream("Who are you?", settings={"stop_rule": "never"}, drafts=True)
        for _ in range(steps % 4 + 1):
            next(stream)
        stream.close()
    wait_until(lambda: not tiny._worker._running().active)
    assert tiny.generate("Who are you?", settings={"seed": 3}).text == expected


def test_an_error_of_the_model_reaches_its_reader_and_nobody_else(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tiny._model.encode

    def failing(rows: Any, caches: Any) -> Any:
        if any(row.numel() > 60 for row in rows):
            raise ValueError("planned")
        return real(rows, caches)

    monkeypatch.setattr(tiny._model, "encode", failing)
    with ThreadPoolExecutor(4) as pool:
        bad = pool.submit(tiny.generate, "a b c d e f g h " * 12)
        good = [pool.submit(tiny.generate, "Who are you?", settings={"seed": 2}) for _ in range(3)]
        with pytest.raises(ValueError, match="planned"):
            bad.result(30)
        assert len({each.result(30).text for each in good}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_an_engine_is_refused_by_name_in_a_fork(tiny: Engine) -> None:
    tiny.generate("Who are you?")
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(20)  # an engine that is not refused would wait for a thread that is not there
        try:
            tiny.generate("Who are you?")
        except EngineClosedError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    assert f"opened in process {os.getpid()}, and a fork, here {child}" in said


@pytest.mark.slow
def test_a_program_that_ends_in_mid_answer_ends_quickly() -> None:
    code = (
        "import threading, time\n"
        "from dgemma_backend import open_engine\n"
        "engine = open_engine('tiny')\n"
        "stream = engine.stream('a', settings={'stop_rule': 'never'}, drafts=True)\n"
        "next(stream)\n"
        "threading.Thread(target=list, args=(stream,), daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "print(time.time(), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    ended = time.time()
    assert done.returncode == 0, done.stderr
    assert ended - float(done.stdout) < 10  # torch's own farewell included; busy machines too


def test_what_cannot_be_run_is_refused_before_it_stands_in_line(tiny: Any) -> None:
    submitted: list[Any] = []
    real = tiny._worker.submit

    def submit(job: Any) -> None:
        submitted.append(job)
        real(job)

    tiny._worker.submit = submit
    try:
        for wrong in ({"sampler": "entropy_bond"}, {"stop_rule": "nevr"}):
            with pytest.raises(UnknownPluginError, match="Did you mean"):
                tiny.generate("Who are you?", settings=wrong)
        assert submitted == []
        tiny.generate("Who are you?")
        assert len(submitted) == 1
    finally:
        del tiny._worker.submit

"""One engine for the same arguments: counted, shared by copies, pickled as its recipe."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dgemma_backend import Engine, ScriptedEngine, open_engine
from dgemma_backend.errors import EngineClosedError
from dgemma_backend.runtime import torch_engine


def opened() -> Engine:
    return open_engine("tiny", device="cpu", dtype="float32")


def test_an_engine_lives_until_it_was_closed_as_often_as_opened() -> None:
    first, second = opened(), open_engine("tiny", dtype="float32", device="cpu")
    assert first is second
    first.close()
    assert second.generate("Who are you?", settings={"max_tokens": 4}).text
    second.close()
    with pytest.raises(EngineClosedError, match="was closed"):
        first.generate("Who are you?")
    second.close()  # once too often does no harm
    with opened() as third:
        assert third is not first


def test_first_calls_at_once_open_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    real = torch_engine.load_model

    def counted(*given: object) -> object:
        loads.append(1)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(torch_engine, "load_model", counted)
    together = threading.Barrier(8)

    def open_it(_: int) -> Engine:
        together.wait()
        return opened()

    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(open_it, range(8)))
    assert len(set(map(id, engines))) == 1
    assert len(loads) == 1
    for engine in engines:
        assert not engine.closed
        engine.close()
    assert engines[0].closed


def test_a_failed_opening_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> object:
        raise MemoryError("planned")

    with monkeypatch.context() as patched:
        patched.setattr(torch_engine, "load_model", failing)
        with pytest.raises(MemoryError):
            opened()
    with opened() as engine:
        assert engine.generate("Who are you?", settings={"max_tokens": 4}).text


def test_copies_share_and_pickle_stores_the_recipe() -> None:
    with opened() as engine:
        assert copy.deepcopy([engine])[0] is engine
        assert copy.copy(engine) is engine
        stored = pickle.dumps(engine)
        assert len(stored) < 10_000
        again = pickle.loads(stored)  # noqa: S301 - our own bytes
        assert again is engine
        again.close()
        assert not engine.closed
    fresh = pickle.loads(stored)  # noqa: S301 - our own bytes
    assert fresh is not engine
    assert fresh.generate("Who are you?", settings={"max_tokens": 4}).text
    fresh.close()


def test_an_engine_without_a_recipe_says_that_it_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="not made by open_engine"):
        pickle.dumps(ScriptedEngine(lambda request: ["hi", "<turn|>"]))

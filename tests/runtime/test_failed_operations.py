"""Memory that runs out at any operation of the real engine: one request pays, if anybody does."""

import gc
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dgemma_backend import open_engine
from dgemma_backend.errors import GenerationError, NonFiniteLogitsError
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.model.cache import KVCache
from dgemma_backend.runtime.scheduler import Limits

SHORT = {"max_tokens": 8, "max_denoising_steps": 1, "seed": 5}
STOPPING = {  # ended by the stop rule
    "max_tokens": 8,
    "max_denoising_steps": 6,
    "seed": 22,
    "temperature": 0,
    "t_max": 0.1,
    "t_min": 0.05,
    "entropy_bound": 90.0,
    "confidence_threshold": 9.0,
}
ALWAYS = 10**9


class Failing(TorchDispatchMode):
    """From the operation `first` on, `fails` of them find no memory. Counts operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.plan(0, 0)

    def plan(self, first: int, fails: int) -> None:
        self.first, self.fails, self.count = first, fails, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        if self.first <= self.count and self.fails:
            self.fails -= 1
            raise (torch.OutOfMemoryError if self.first % 2 else MemoryError)("planned")
        return function(*args, **(kwargs or {}))


class Faulty:
    """An engine whose passes run under `Failing`, and which knows the caches that are alive."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine, self.failing = engine, Failing()
        self.caches: weakref.WeakSet[KVCache] = weakref.WeakSet()
        self.ends: list[int] = []  # operations after each denoising pass
        self.scheduler = engine._worker._scheduler
        self.store = self.scheduler._passes._prefixes
        for name in ("encode", "denoise"):
            self._under(name, monkeypatch)
        self._noted(monkeypatch)

    def _under(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(self.scheduler._passes, name)

        def run(jobs: Sequence[Any]) -> None:
            with self.failing:
                real(jobs)
            if name == "denoise":
                self.ends.append(self.failing.count)

        monkeypatch.setattr(self.scheduler._passes, name, run)

    def _noted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real_new, real_fork = KVCache.__init__, KVCache.fork

        def new(cache: KVCache, *given: Any) -> None:
            real_new(cache, *given)
            self.caches.add(cache)

        def fork(cache: KVCache, *given: Any) -> KVCache:
            copy = real_fork(cache, *given)
            self.caches.add(copy)
            return copy

        monkeypatch.setattr(KVCache, "__init__", new)
        monkeypatch.setattr(KVCache, "fork", fork)

    def ask(self, settings: dict[str, Any], drafts: bool = False, **more: Any) -> tuple[str, int]:
        events = self.engine.stream("the river", settings={**settings, **more}, drafts=drafts)
        reply = list(events)[-1].reply
        return reply.text, reply.usage.denoising_steps

    def ask_failing(self, first: int, fails: int, *given: Any, **more: Any) -> Any:
        """What a request comes to, or the `GenerationError` that ended it."""
        self.failing.plan(first, fails)
        try:
            return self.ask(*given, cache_salt=str(first), **more)
        except GenerationError as error:
            return error
        finally:
            self.failing.plan(0, 0)

    def check_nothing_is_left(self) -> None:
        """No request at work, and no cache but those in the store, which keeps to its budget."""
        deadline = time.monotonic() + 20
        while self.scheduler.active or set(self.caches) != self.kept():
            assert time.monotonic() < deadline, "a request or its cache stayed"
            time.sleep(0.001)
        assert self.scheduler.waiting == 0
        held = sum(each.bytes for each in self.kept())
        assert self.store.bytes == held <= self.store.budget

    def kept(self) -> set[KVCache]:
        """The caches in the store."""
        return {each.cache for each in self.store._kept.copy()}


@pytest.fixture(scope="module")
def faulty(random_folder: Path) -> Iterator[Faulty]:
    limits = Limits(prefix_bytes=1 << 16)
    with (
        pytest.MonkeyPatch.context() as patch,
        open_engine(random_folder, device="cpu", dtype="float32", limits=limits) as engine,
    ):
        yield Faulty(engine, patch)


@pytest.mark.slow
def test_a_request_survives_any_of_its_first_200_operations(faulty: Faulty) -> None:
    """It is run once more, alone, with all that can be freed."""
    wanted = faulty.ask(SHORT)
    for first in range(1, 201):
        assert faulty.ask_failing(first, 1, SHORT) == wanted, f"operation {first}"
        faulty.check_nothing_is_left()


@pytest.mark.slow
def test_a_step_that_failed_while_it_was_judged_or_told_is_taken_once_more(faulty: Faulty) -> None:
    """The last operations of every denoising pass: acceptance, stop rule, draft, commit."""
    faulty.failing.plan(0, 0)
    faulty.ends.clear()
    wanted = faulty.ask(STOPPING, drafts=True, cache_salt="count")
    assert 3 <= wanted[1] < STOPPING["max_denoising_steps"]
    for end in faulty.ends.copy():
        for first in range(end - 13, end + 1):
            assert faulty.ask_failing(first, 1, STOPPING, True) == wanted, (
                f"operation {first - end}"
            )
            faulty.check_nothing_is_left()


@pytest.mark.slow
def test_memory_that_does_not_come_back_fails_that_request_alone(faulty: Faulty) -> None:
    """Its error, while it is kept, keeps no memory; the next answer is that of a fresh engine."""
    wanted = faulty.ask(SHORT)
    for first in range(1, 201):
        error = faulty.ask_failing(first, ALWAYS, SHORT)
        assert isinstance(error, GenerationError), f"operation {first}"
        assert "ran out of memory for this request alone" in str(error)
        faulty.check_nothing_is_left()
        assert faulty.ask(SHORT) == wanted, f"after operation {first}"


@pytest.mark.parametrize("what", ["an error of the model", "logits that are not finite"])
def test_an_error_that_is_kept_keeps_no_closed_engine_alive(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real = DiffusionGemma._through_layers

    def failing(model: DiffusionGemma, x: torch.Tensor, context: Any) -> torch.Tensor:
        if what == "an error of the model":
            raise ValueError("planned")
        return real(model, x, context) * float("nan")

    engine: Any = open_engine(random_folder, device="cpu", dtype="float32", together=True)
    alive = weakref.ref(engine._model)
    monkeypatch.setattr(DiffusionGemma, "_through_layers", failing)
    with pytest.raises((ValueError, NonFiniteLogitsError)) as kept:
        engine.generate("the river", settings=SHORT)
    engine.close()
    assert str(kept.value)
    gc.collect()
    assert alive() is None

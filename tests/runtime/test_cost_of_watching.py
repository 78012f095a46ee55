"""Drafts, observers and counters cost those who ask for them, and nobody else."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dgemma_backend.hookspecs import hookimpl
from dgemma_backend.plugins import Plugins
from dgemma_backend.runtime.scheduler import Limits
from dgemma_backend.runtime.torch_engine import TorchEngine

SETTINGS = {"seed": 1, "max_tokens": 24, "max_denoising_steps": 3, "stop_rule": "never"}


class Counting(TorchDispatchMode):
    """Counts torch operations."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


class Counted:
    """An engine with these observers; counts the operations on its thread."""

    def __init__(self, folder: Path, **observers: Callable[..., object]) -> None:
        hooks = {f"dgemma_{name}": hookimpl(function) for name, function in observers.items()}
        plugins = Plugins.load(given={"watching": SimpleNamespace(**hooks)} if hooks else {})
        self.engine = TorchEngine(
            folder,
            plugins=plugins,
            device="cpu",
            dtype="float32",
            limits=Limits(prefix_bytes=0),
        )
        self.counting = Counting()  # type: ignore[no-untyped-call]
        self.drafts_made = 0
        self.crowd: set[int] = set()
        self.all_there = threading.Event()
        self.scheduler = self.engine._worker._running()
        passes: Any = self.scheduler._passes
        for name in ("encode", "denoise"):
            setattr(passes, name, self._counted(getattr(passes, name)))
        real = passes._draft_of

        def draft_of(step: Any) -> Any:
            self.drafts_made += 1
            return real(step)

        passes._draft_of = draft_of
        self.operations(False)  # some tensors are made once in an engine's life

    def _counted(self, run: Callable[[Sequence[Any]], None]) -> Callable[[Sequence[Any]], None]:
        def counted(jobs: Sequence[Any]) -> None:
            assert self.all_there.wait(20)
            self.crowd.add(len(jobs))
            with self.counting:
                run(jobs)

        return counted

    def operations(self, *drafts: bool) -> int:
        """Operations that so many requests at once take, with or without drafts."""
        self.counting.count = 0
        self.all_there.clear()
        with ThreadPoolExecutor(len(drafts)) as pool:
            asked = [pool.submit(self._ask, each) for each in drafts]
            while len(self.scheduler.active) + self.scheduler.waiting < len(drafts):
                time.sleep(0.001)
            self.all_there.set()
            replies = [each.result() for each in asked]
        assert {reply.usage.denoising_steps for reply in replies} == {9}
        return self.counting.count

    def _ask(self, drafts: bool) -> Any:
        events = list(self.engine.stream("the river", settings=SETTINGS, drafts=drafts))
        return events[-1].reply  # type: ignore[union-attr]


@pytest.fixture
def counted(random_folder: Path) -> Callable[..., Any]:
    @contextmanager
    def opened(**observers: Callable[..., object]) -> Iterator[Counted]:
        made = Counted(random_folder, **observers)
        with made.engine:
            yield made

    return opened


def test_drafts_cost_operations_to_those_alone_who_want_them(
    counted: Callable[..., Any],
) -> None:
    with counted() as watched:
        plain = watched.operations(False)
        assert watched.drafts_made == 0
        assert watched.operations(False) == plain > 1000
        with_drafts = watched.operations(True)
        assert watched.drafts_made == 9
        assert plain < with_drafts < 1.1 * plain
        both = watched.operations(False, True, False)
        assert max(watched.crowd) > 1
        assert both == 2 * plain + with_drafts
        assert watched.drafts_made == 18


def test_an_observer_costs_what_it_does_itself(
    counted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an operation more for those that look at none, nor a wait for the device."""
    steps: list[Any] = []
    ended: list[Any] = []
    waits: list[Any] = []
    real = torch.Tensor.tolist

    def tolist(tensor: torch.Tensor) -> Any:
        waits.append(tensor.numel())
        return real(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)

    def on_step(step: Any) -> None:
        steps.append(step.step)

    def reading(step: Any) -> None:
        torch.add(step.entropy, 1)

    def request_finished(info: Any) -> None:
        ended.append(info.reply.usage.decode_seconds)

    with counted() as alone:
        assert not alone.engine._plugins.observes("dgemma_on_step")
        waits.clear()
        plain = alone.operations(False)
    waited = waits.copy()
    with counted(on_step=on_step, request_finished=request_finished) as watched:
        for told in (waits, steps, ended):
            told.clear()
        assert watched.operations(False) == plain
    assert waits == waited
    assert steps == [1, 2, 3] * 3
    assert len(ended) == 1
    with counted(on_step=reading) as watched:
        assert watched.operations(False) == plain + 9

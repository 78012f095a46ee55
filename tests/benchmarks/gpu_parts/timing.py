"""How long something takes on the device: the median of runs that find the cache cold."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Run = Callable[[], object]
_ENOUGH = 0.5  # seconds spent on one measurement, warm-up aside


class Timing(NamedTuple):
    """Milliseconds."""

    median: float
    low: float
    high: float
    how: str

    def facts(self) -> dict[str, object]:
        """For a row of results."""
        ms = {"ms": self.median, "low_ms": self.low, "high_ms": self.high}
        return {name: float(f"{value:.5g}") for name, value in ms.items()} | {"how": self.how}


class Stopwatch:
    """Measures on one device. On a CPU the figures only show that the code runs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was given. Raises RuntimeError if it could not."""
        if self._cuda:
            torch.cuda.synchronize()

    def wall_ms(self, run: Run) -> float:
        """Of one run as the host sees it, everything that it launched included."""
        self.wait()
        begun = time.perf_counter()
        run()
        self.wait()
        return 1000 * (time.perf_counter() - begun)

    def measure(self, run: Run, repeats: int, *, graph: bool = True, cold: bool = True) -> Timing:
        """The median of `repeats` runs of `run`, each a CUDA graph if it can be recorded.

        A graph takes the host's time out of a figure; `cold` empties the L2 cache before each.
        """
        if not self._cuda:
            return _summary([_seconds(run) * 1000 for _ in range(repeats)], "cpu clock")
        how = "eager"
        if graph:
            run, how = _recorded(run)
        else:
            run()
            run()
        torch.cuda.synchronize()
        begun = time.monotonic()
        found: list[float] = []
        flushed = self._cache_sized() if cold else None
        while len(found) < repeats and (len(found) < 3 or time.monotonic() - begun < _ENOUGH):
            found += _batch(run, min(5, repeats - len(found)), flushed)
        return _summary(found, how)

    def _cache_sized(self) -> Tensor:
        cache = torch.cuda.get_device_properties(self._device).L2_cache_size
        return torch.empty(4 * cache, dtype=torch.int8, device=self._device)


def _batch(run: Run, count: int, flushed: Tensor | None) -> list[float]:
    """Launched one behind the other, so that the host's work hides behind the device's."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for before, after in events:
        if flushed is not None:
            flushed.zero_()
        before.record()
        run()
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in events]


def _recorded(run: Run) -> tuple[Run, str]:
    """`run` as a graph, or as it is where it waits for the device."""
    before, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(before)
    with torch.cuda.stream(side):
        run()
        run()
    before.wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    except RuntimeError:
        torch.cuda.set_stream(before)  # a recording that failed leaves its own
        torch.cuda.synchronize()
        return run, "eager, cannot be recorded"
    return graph.replay, "graph"


def _seconds(run: Run) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _summary(found: list[float], how: str) -> Timing:
    return Timing(statistics.median(found), min(found), max(found), how)

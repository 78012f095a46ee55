"""What all phases share: device, sizes, clock, results, and one model that changes its format."""

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from dgemma_backend.model import DiffusionGemma
from dgemma_kernels import Kernels, reference_kernels
from dgemma_kernels.routing import Routing

from .cases import Draw, tables
from .journal import Clock, DeviceLostError, Journal
from .roofline import Ceilings
from .shapes import FORMATS, Shapes
from .timing import Stopwatch
from .weights import convert, random_model, shared_model, weight_bytes


class RecordedRoute:
    """A router that keeps what it said, while asked to."""

    def __init__(self, kernels: Kernels) -> None:
        self._route = kernels.route
        self.said: list[Routing] | None = None

    def __call__(self, *operands: Any) -> Routing:
        found = self._route(*operands)
        if self.said is not None:
            self.said.append(found)
        return found


@dataclass
class Bench:
    """One run on one device."""

    shapes: Shapes
    device: torch.device
    journal: Journal
    clock: Clock
    toy: bool
    only: str = ""  # part of the names of kernels to measure
    replaced: tuple[str, ...] = ()  # operations left to the reference
    dtype: torch.dtype = torch.bfloat16
    route: RecordedRoute = field(init=False)
    _seed: int = 0
    _model: DiffusionGemma | None = None
    _form: str = ""
    _whole: bool = True  # a cut may leave a conversion half done, for the next call to finish

    def __post_init__(self) -> None:
        self.route = RecordedRoute(self.tables["bf16"])

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def draw(self, dtype: torch.dtype | None = None) -> Draw:
        """Numbers that nobody has seen before."""
        self._seed += 1
        return Draw(self.device, dtype or self.dtype, self._seed)

    @cached_property
    def tables(self) -> Mapping[str, Kernels]:
        """Our kernels by the format of the weights they are for."""
        plain = {name: getattr(reference_kernels(), name) for name in self.replaced}
        return {form: replace(table, **plain) for form, table in tables().items()}

    @cached_property
    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.device)

    @cached_property
    def ceilings(self) -> Ceilings:
        """Measured when first asked for."""
        from .machine import measured_ceilings

        return measured_ceilings(self)

    @property
    def capability(self) -> int:
        """0 without CUDA."""
        if not self.cuda:
            return 0
        major, minor = torch.cuda.get_device_capability(self.device)
        return 10 * major + minor

    def model_in(self, form: str) -> DiffusionGemma:
        """The model in that format; formats come in order, as there is no way back."""
        stored = "fp8" if form == "w8a8" else form
        if self._model is None or FORMATS.index(self._form) > FORMATS.index(stored):
            self.release()
            self._model, self._form, self._whole = self._allocated(), "bf16", True
        if self._form != stored or not self._whole:
            self._form, self._whole = stored, False
            with self._timed("convert", stored):
                convert(self._model, stored, self.clock.check)
            self._whole = True
        if form == "bf16":
            return self._model
        table = self.tables[form]
        if not self.cuda:  # an interpreter has run the other kernels with the model in bf16
            plain = reference_kernels()
            table = replace(plain, experts=table.experts, linear=table.linear)
        return shared_model(self._model, self._recorded(table))

    def _allocated(self) -> DiffusionGemma:
        with self._timed("allocate", "bf16"):
            table = self._recorded(self.tables["bf16"])
            self._model = random_model(self.shapes.config, table, self.draw())
        return self._model

    @contextmanager
    def _timed(self, kind: str, form: str) -> Iterator[None]:
        """A row with the seconds it took and the weights there are then."""
        begun = time.monotonic()
        yield
        self.free()
        assert self._model is not None
        held = round(weight_bytes(self._model) / 1e9, 3)
        seconds = round(time.monotonic() - begun, 2)
        self.journal.add(kind, form=form, seconds=seconds, weights_gb=held)

    def _recorded(self, kernels: Kernels) -> Kernels:
        return replace(kernels, route=self.route)

    def release(self) -> None:
        """Free the model."""
        self._model, self._form = None, ""
        self.free()

    def free(self) -> None:
        """Give back what nobody holds."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def begin_peak(self) -> None:
        """Memory at the peak counts from here."""
        self.free()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    @property
    def lost(self) -> bool:
        """Whether a kernel's fault has made the device useless to this process."""
        try:
            self.stopwatch.wait()
        except RuntimeError:
            return True
        return False

    def give_up_if_lost(self, suspect: str) -> None:
        """Raise DeviceLostError if this process cannot use the device any more."""
        if self.lost:
            raise DeviceLostError(suspect)

    @property
    def peak_gb(self) -> float | None:
        """10^9 bytes allocated at the peak; None where nobody counts."""
        if not self.cuda:
            return None
        return round(torch.cuda.max_memory_allocated() / 1e9, 3)

"""The whole network on Triton kernels: the reference's numbers, and never a wait in a step."""

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dgemma_backend.diffusion import (
    CanvasDenoiser,
    CanvasNoise,
    DecodingSettings,
    EntropyBoundSampler,
    Never,
)
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.runtime.captured_step import CapturedSteps

WAITS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "unique", "masked_select"}


class Waits(TorchDispatchMode):
    """Notes every operation that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.met: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS and not _interpreting():
            self.met.append(name)
        return func(*args, **(kwargs or {}))


def _interpreting() -> bool:
    """Whether the interpreter asks, which stands for the GPU here."""
    files = [frame.filename for frame in traceback.extract_stack()]
    return any(name.endswith("triton/runtime/interpreter.py") for name in files)


@pytest.fixture(scope="module")
def both(
    toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> tuple[DiffusionGemma, DiffusionGemma]:
    """The same weights on the reference and on Triton's kernels."""
    from dgemma_kernels.triton_table import triton_kernels

    facts = toy_facts(
        sliding_window=16, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]
    )
    plain = random_model(facts, seed=2)
    fast = DiffusionGemma(plain.config, triton_kernels()).requires_grad_(False)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


@torch.inference_mode()
def test_both_passes_give_the_references_numbers(
    both: tuple[DiffusionGemma, DiffusionGemma],
) -> None:
    canvas = torch.arange(16).view(2, 8)
    found = []
    for model in both:
        caches = []
        for length in (3, 21):
            cache = model.new_cache()
            for piece in (torch.arange(length) * 5 % 64).split(8):
                model.encode([piece], [cache])
            caches.append(cache)
        context = model.canvas_context(caches)
        first = model.denoise(canvas, None, context).dense()
        second = model.denoise(canvas, model.guess(first, 0.6), context).dense()
        found.append(torch.cat((first, second)))
    assert float((found[0] - found[1]).abs().max()) < 2e-5 * float(found[0].abs().max())


@torch.inference_mode()
def test_a_step_never_waits_for_the_device(both: tuple[DiffusionGemma, DiffusionGemma]) -> None:
    model = both[1]
    cache = model.new_cache()
    model.encode([torch.arange(12)], [cache])
    settings = DecodingSettings(3, 3, 0.4, 0.8, 0.1, 0.005, 1)
    noise = CanvasNoise(0, 0, 3, 8, 64, torch.device("cpu"))
    canvas = CanvasDenoiser(settings, EntropyBoundSampler(settings), Never(), noise)
    context = model.canvas_context([cache])

    def recorded(run: Callable[[], None]) -> Callable[[], None]:
        return run

    steps = CapturedSteps(model, recorded)
    taken = steps.step([canvas], context)
    assert taken is not None
    canvas.advance(taken[0][0])
    with Waits() as seen:
        again = steps.step([canvas], context)
        assert again is not None
        canvas.advance(again[0][0])
    assert seen.met == []  # but for one tolist(), which copies; on CUDA one pinned read

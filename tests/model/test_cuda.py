"""The same code on CUDA: the passes, the noise and a whole reply."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dgemma_backend import open_engine
from dgemma_backend.diffusion import CanvasNoise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]


@pytest.mark.parametrize("seed", range(8))
@torch.no_grad()
def test_both_passes_give_on_cuda_what_they_give_on_the_cpu(
    seed: int, toy_facts: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    facts = toy_facts(sliding_window=5 + seed)
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(64, (13,), generator=generator)
    canvas = torch.randint(64, (1, 8), generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        model = random_model(facts, seed).to(device)
        cache = model.new_cache()
        for piece in prompt.to(device).split(4):
            model.encode([piece], [cache])
        context = model.canvas_context([cache])
        first = model.denoise(canvas.to(device), None, context).dense()
        again = model.denoise(canvas.to(device), model.guess(first, 0.7), context).dense()
        found.append(torch.cat((first, again)).cpu())
    scale = float(found[0].abs().max())
    assert float((found[0] - found[1]).abs().max()) < 1e-5 * scale


def test_noise_is_the_same_on_both_devices() -> None:
    on = [CanvasNoise(9, 2, 5, 64, 1000, torch.device(device)) for device in ("cpu", "cuda")]
    for step in range(1, 6):
        mine, theirs = (noise.step(step) for noise in on)
        assert torch.equal(mine.uniform, theirs.uniform.cpu())
        assert torch.equal(mine.renoise, theirs.renoise.cpu())


def test_the_embedded_model_answers_on_cuda_as_on_the_cpu() -> None:
    texts = []
    for device in ("cpu", "cuda"):
        with open_engine("tiny", device=device, dtype="float32") as engine:
            texts.append(engine.generate("How are you today?", settings={"seed": 1}).text)
    assert texts[0] == texts[1] != ""

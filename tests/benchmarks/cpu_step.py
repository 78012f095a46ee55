"""Time and memory of a denoising step on CPU, ours beside transformers' in one run.

    .venv/bin/python tests/benchmarks/cpu_step.py --out tests/benchmarks/results/cpu-step.json

A step is everything between two canvases: forward pass, softcap, proposals, entropies,
acceptance, renoise, stop statistics and the guess for the next step. Both sides take the same
number of steps over the same random weights, prompt and canvas, in turns, stopping never.
Peak memory is that of a process that does nothing else, less what it held once loaded.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PROMPT, STEPS, TURNS = 128, 4, 5
MID = {
    "vocab_size": 32768,
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 2,
    "head_dim": 64,
    "global_head_dim": 128,
    "num_experts": 32,
    "top_k_experts": 4,
    "moe_intermediate_size": 256,
    "sliding_window": 512,
}


def facts_of(size: str) -> dict[str, Any]:
    """The config.json of the model measured."""
    from dgemma_backend.tiny import CHECKPOINT

    facts: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text())
    if size == "mid":
        facts["canvas_length"] = 256
        facts["text_config"] |= MID
        kinds = ["sliding_attention"] * 3 + ["full_attention"]
        facts["text_config"]["layer_types"] = kinds * 2
    return facts


def our_steps(facts: dict[str, Any]) -> Callable[[], None]:
    """A function that denoises one canvas for STEPS steps with our code."""
    from dgemma_backend.config import ModelConfig
    from dgemma_backend.diffusion import (
        CanvasDenoiser,
        CanvasNoise,
        EntropyBoundSampler,
        Never,
        denoise_canvas,
    )
    from dgemma_backend.diffusion import DecodingSettings as Settings
    from dgemma_backend.model import DiffusionGemma

    model = DiffusionGemma(ModelConfig.from_dict(facts)).requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    cache, length = model.new_cache(), facts["canvas_length"]
    vocabulary = facts["text_config"]["vocab_size"]
    settings = Settings(STEPS, STEPS, 0.4, 0.8, 0.1, 0.005, 1)
    with torch.inference_mode():
        model.encode([torch.arange(PROMPT) % vocabulary], [cache])

    context = model.canvas_context([cache])

    def logits_of(canvas: torch.Tensor, guess: torch.Tensor | None) -> Any:
        return model.denoise(canvas[None], None if guess is None else guess[None], context)[0]

    def run() -> None:
        noise = CanvasNoise(0, 0, STEPS, length, vocabulary, torch.device("cpu"))
        denoiser = CanvasDenoiser(settings, EntropyBoundSampler(settings), Never(), noise)
        with torch.inference_mode():
            deque(denoise_canvas(logits_of, denoiser), maxlen=0)

    return run


def their_steps(facts: dict[str, Any]) -> Callable[[], None]:
    """A function that denoises one canvas for STEPS steps with transformers' `generate`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
        from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation

        torch.compiler.cudagraph_mark_step_begin()
    model = DiffusionGemmaForBlockDiffusion(DiffusionGemmaConfig(**facts)).eval()
    model.requires_grad_(False)
    for parameter in model.model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    vocabulary = facts["text_config"]["vocab_size"]
    prompt = (torch.arange(PROMPT) % vocabulary)[None]
    config = generation.DiffusionGemmaGenerationConfig(
        max_new_tokens=facts["canvas_length"],
        max_denoising_steps=STEPS,
        sampler_config=generation.EntropyBoundSamplerConfig(0.1),
        t_min=0.4,
        t_max=0.8,
        stability_threshold=STEPS + 1,
        confidence_threshold=1e-9,
        eos_token_id=None,
        pad_token_id=0,
    )
    encoder = model.model.encoder
    spent: list[float] = []

    def timed_encode(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        out = forward(*args, **kwargs)
        spent.append(time.perf_counter() - begun)
        return out

    forward, encoder.forward = encoder.forward, timed_encode

    def run() -> None:
        spent.clear()
        with torch.inference_mode():
            model.generate(prompt, generation_config=config)

    run.prefill = lambda: sum(spent)  # type: ignore[attr-defined]
    return run


SIDES = {"ours": our_steps, "transformers": their_steps}


def step_times(size: str, threads: int) -> dict[str, list[float]]:
    """Milliseconds a step, one figure a turn, both sides in turns; prefill not counted."""
    torch.set_num_threads(threads)
    runs = {side: make(facts_of(size)) for side, make in SIDES.items()}
    found: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(TURNS + 1):
        for side, run in runs.items():
            begun = time.perf_counter()
            run()
            spent = time.perf_counter() - begun - getattr(run, "prefill", lambda: 0.0)()
            if turn:  # the first warms up
                found[side].append(1000 * spent / STEPS)
    return found


def peak_memory(size: str, side: str) -> float:
    """MiB above what the process held once the model was built, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", side, "--size", size]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.strip().splitlines()[-1])


def measure_memory(size: str, side: str) -> None:
    torch.set_num_threads(1)
    run = SIDES[side](facts_of(size))
    status = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    Path("/proc/self/clear_refs").write_text("5")  # peak counts from here
    run()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print((peak - held) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", choices=("tiny", "mid"))
    parser.add_argument("--memory-of", choices=tuple(SIDES))
    given = parser.parse_args()
    if given.memory_of:
        measure_memory(given.size, given.memory_of)
        return
    rows = []
    for size in ("tiny", "mid"):
        memory = {side: peak_memory(size, side) for side in SIDES}
        for threads in (1, 2):
            times = step_times(size, threads)
            ours, theirs = (statistics.median(times[side]) for side in SIDES)
            rows.append(
                {
                    "model": size,
                    "threads": threads,
                    "ours_ms": round(ours, 2),
                    "transformers_ms": round(theirs, 2),
                    "ratio": round(theirs / ours, 2),
                    "spread_ms": {
                        s: [round(min(t), 2), round(max(t), 2)] for s, t in times.items()
                    },
                    "peak_mib": {s: round(m, 1) for s, m in memory.items()},
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python tests/benchmarks/cpu_step.py",
        "machine": {"processor": processor(), "cores": torch.get_num_threads()},
        "versions": {n: version(n) for n in ("torch", "transformers")}
        | {"python": platform.python_version()},
        "conditions": {"prompt": PROMPT, "steps": STEPS, "turns": TURNS, "dtype": "float32"},
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


def processor() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return names[0].partition(": ")[2] if names else platform.processor()


if __name__ == "__main__":
    main()

"""Time and memory of a step's vocabulary part on CPU, ours beside transformers' in one run.

    .venv/bin/python tests/benchmarks/vocabulary.py --out tests/benchmarks/results/vocabulary.json

That part is everything between the last hidden state of one denoising step and the soft
embedding of the next: lm_head, softcap, temperature, proposals, argmax, entropies, acceptance,
stop statistics, expected embedding. transformers' side is its own `_denoising_step`, whose
decoder is replaced by the first and last lines of its forward pass. Both sides take their turns
in one process. Where other work shares the machine, read the least CPU time: what others cost
is only ever added. Peak memory is that of a process that does nothing else, less what it held
once its inputs were made.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS, WIDTH, CAP, BOUND, SEED = 256, 512, 30.0, 0.1, 0
STEPS, STEP, T_MIN, T_MAX = 48, 24, 0.4, 0.8
SPREAD = 4.0  # standard deviation of the logits before the softcap
TURNS = {32768: 7, 262144: 5}


def made_inputs(vocabulary: int) -> tuple[Tensor, Tensor]:
    """Hidden states `(ROWS, WIDTH)` and a table `(vocabulary, WIDTH)`."""
    generator = torch.Generator().manual_seed(SEED)
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    table = torch.randn(vocabulary, WIDTH, generator=generator).mul_(SPREAD * WIDTH**-0.5)
    return hidden, table


def our_step(hidden: Tensor, table: Tensor) -> Callable[[], Any]:
    from dgemma_backend.diffusion import CanvasNoise, EntropyBoundSampler
    from dgemma_kernels.vocab import Draws
    from dgemma_kernels.vocab_pass import vocabulary_pass

    sampler = EntropyBoundSampler(SimpleNamespace(entropy_bound=BOUND))
    noise = CanvasNoise(SEED, 0, 1, ROWS, table.shape[0], hidden.device)
    temperature = torch.full((ROWS,), T_MIN + (T_MAX - T_MIN) * STEP / STEPS)
    before = noise.first

    def step() -> Any:
        drawn = noise.step(1)
        draws = Draws(temperature, torch.ones(ROWS), drawn.uniform)
        found = vocabulary_pass(hidden, table, CAP, draws, guess=True)
        canvas = torch.where(sampler.accept(found.entropy), found.sample, drawn.renoise)
        stop = (found.argmax == before).all() & (found.entropy.mean() < 0.005)
        return canvas, stop, found.guess

    return step


def their_step(hidden: Tensor, table: Tensor) -> Callable[[], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LogitsProcessorList
        from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation

        torch.compiler.cudagraph_mark_step_begin()
    vocabulary = table.shape[0]
    owner = SimpleNamespace(
        config=SimpleNamespace(text_config=SimpleNamespace(vocab_size=vocabulary)),
        model=SimpleNamespace(decoder=SimpleNamespace(embed_tokens=SimpleNamespace(weight=table))),
    )
    settings = generation.EntropyBoundSamplerConfig(BOUND)
    sampler = generation.EntropyBoundSampler(settings, ROWS, vocabulary, STEPS)
    stop = generation.StableAndConfidentStoppingCriteria(1, 0.005)
    schedule = generation.LinearTemperatureScheduleLogitsProcessor(T_MIN, T_MAX, STEPS)
    canvas = torch.randint(vocabulary, (1, ROWS))
    logits = (hidden @ table.t())[None]  # of the step before: its guess is made in this one

    def decoder_forward(self_conditioning_logits: Tensor, **_: Any) -> Any:
        share = self_conditioning_logits.softmax(dim=-1, dtype=torch.float32).to(table.dtype)
        soft = torch.matmul(share, table)
        del share
        raw = F.linear(hidden[None], table).to(torch.float32)
        raw = raw / CAP
        raw = torch.tanh(raw)
        return SimpleNamespace(logits=raw * CAP, soft=soft)

    def step() -> Any:
        return generation.DiffusionGemmaGenerationMixin._denoising_step(
            owner,
            decoder_forward=decoder_forward,
            current_canvas=canvas,
            argmax_canvas=canvas,
            input_ids=canvas,
            decoder_position_ids=canvas,
            self_conditioning_logits=logits,
            mask_mapping={},
            past_key_values=None,
            finished_denoising=torch.zeros(1, dtype=torch.bool),
            cur_step=STEP,
            sampler=sampler,
            logits_processor=LogitsProcessorList([schedule]),
            diffusion_stopping_criteria=stop,
        )

    return step


def two_products(hidden: Tensor, table: Tensor) -> Callable[[], Any]:
    """What no float32 vocabulary part can do without: a bound for both sides."""
    return lambda: (hidden @ table.t()) @ table


SIDES = {"ours": our_step, "transformers": their_step}


def step_times(vocabulary: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of CPU and of wall a step, one figure a turn, both sides in turns."""
    torch.set_num_threads(1)
    inputs = made_inputs(vocabulary)
    made = {**SIDES, "products": two_products}
    steps = {side: make(*inputs) for side, make in made.items()}
    found: dict[str, dict[str, list[float]]] = {s: {"cpu": [], "wall": []} for s in steps}
    for turn in range(TURNS[vocabulary] + 1):
        for side, step in steps.items():
            cpu, wall = time.process_time(), time.perf_counter()
            with torch.inference_mode():
                step()
            if turn:  # the first warms up
                found[side]["cpu"].append(1000 * (time.process_time() - cpu))
                found[side]["wall"].append(1000 * (time.perf_counter() - wall))
    return found


def peak_memory(vocabulary: int, side: str) -> float:
    """MiB above what the process held once its inputs were made, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", side, "--vocabulary", str(vocabulary)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.strip().splitlines()[-1])


def measure_memory(vocabulary: int, side: str) -> None:
    torch.set_num_threads(1)
    step = SIDES[side](*made_inputs(vocabulary))
    held = memory_of_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # peak counts from here
    with torch.inference_mode():
        step()
    print((memory_of_status("VmHWM") - held) / 1024)


def memory_of_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def measured_row(vocabulary: int) -> dict[str, Any]:
    memory = {side: round(peak_memory(vocabulary, side), 1) for side in SIDES}
    times = step_times(vocabulary)
    row: dict[str, Any] = {"vocabulary": vocabulary, "peak_mib": memory}
    for clock in ("cpu", "wall"):
        least = {side: min(each[clock]) for side, each in times.items()}
        middle = {side: statistics.median(each[clock]) for side, each in times.items()}
        row[clock] = {
            "least_ms": {side: round(spent, 1) for side, spent in least.items()},
            "ratio_of_least": round(least["transformers"] / least["ours"], 2),
            "median_ms": {side: round(spent, 1) for side, spent in middle.items()},
            "ratio_of_medians": round(middle["transformers"] / middle["ours"], 2),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--vocabulary", type=int, choices=tuple(TURNS))
    parser.add_argument("--memory-of", choices=tuple(SIDES))
    given = parser.parse_args()
    if given.memory_of:
        measure_memory(given.vocabulary, given.memory_of)
        return
    rows = []
    for vocabulary in [given.vocabulary] if given.vocabulary else TURNS:
        rows.append(measured_row(vocabulary))
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python tests/benchmarks/vocabulary.py",
        "machine": {
            "processor": processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "versions": {n: version(n) for n in ("torch", "transformers")}
        | {"python": platform.python_version()},
        "conditions": {
            "rows": ROWS,
            "hidden": WIDTH,
            "logit_spread": SPREAD,
            "threads": 1,
            "dtype": "float32",
            "turns": TURNS,
        },
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


def processor() -> str:
    names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return names[0].partition(": ")[2] if names else platform.processor()


if __name__ == "__main__":
    main()

"""Tokens per second and latency at 1, 4 and 16 requests at once, ours beside transformers'.

    .venv/bin/python tests/benchmarks/throughput.py --out throughput.json

All requests of a round come at the same moment, each with a prompt of its own and one canvas of
STEPS denoising steps; both sides have the same random weights, prompts and numbers of steps, in
float32, and take turns. Ours are threads that call `generate` of one engine. transformers' own
`generate` takes one call after another, or all prompts as one batch: both are measured, and the
ratio is to the better of the two. A latency is from that moment until the answer is there.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import torch

STEPS = 4
AT_ONCE = (1, 4, 16)
Round = Callable[[int], tuple[int, list[float]]]
"""How many requests at once -> tokens made, and each request's latency in seconds."""


def saved_model(folder: Path, size: str) -> dict[str, Any]:
    """A random model as a checkpoint in `folder`; returns its config.json."""
    from dgemma_backend.config import DecodingDefaults, ModelConfig
    from dgemma_backend.model import DiffusionGemma
    from dgemma_backend.tiny import CHECKPOINT
    from dgemma_backend.weights.saving import save

    facts: dict[str, Any] = import_module("cpu_step").facts_of(size)
    config = replace(ModelConfig.from_dict(facts), vision=None)
    model = DiffusionGemma(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.05, generator=generator)
    never = facts["image_token_id"]  # its logit is 0, and the greatest of the others is not
    model.embed_tokens.weight[never] = 0
    decoding = replace(DecodingDefaults.from_folder(CHECKPOINT), stop_token_ids=(never,))
    save(model, folder, config=config, decoding=decoding, manifest=False)
    shutil.copy(CHECKPOINT / "tokenizer.json", folder)
    return facts


def question(number: int) -> str:
    """Always the same words, in another order."""
    words = "the old river is green and nobody knows why it is so".split() * 5
    Random(number).shuffle(words)
    return " ".join(words)


def equally_long(rows: Sequence[Sequence[int]]) -> list[int]:
    """Numbers of rows of the most common length: a batch wants all to have the same."""
    length = statistics.mode(map(len, rows))
    return [number for number, row in enumerate(rows) if len(row) == length]


def our_rounds(folder: Path, together: bool | None) -> tuple[Round, list[list[int]]]:
    """Ours, and the prompts it makes of the questions."""
    from dgemma_backend import open_engine
    from dgemma_backend.runtime.scheduler import Limits

    limits = Limits(prefix_bytes=0)
    options: dict[str, Any] = {"limits": limits, "together": together}
    engine: Any = open_engine(folder, device="cpu", dtype="float32", **options)
    settings = {"max_denoising_steps": STEPS, "stop_rule": "never"}
    settings["max_tokens"] = engine.info.canvas_length

    rendered = [engine._rendered(question(number), (), False)[1] for number in range(100)]
    chosen = equally_long(rendered)[: max(AT_ONCE)]

    def ask(number: int) -> tuple[int, float]:
        asked = question(chosen[number])
        reply = engine.generate(asked, settings={**settings, "seed": number})
        return reply.usage.completion_tokens, time.perf_counter()

    def run(count: int) -> tuple[int, list[float]]:
        with ThreadPoolExecutor(count) as pool:
            begun = time.perf_counter()
            done = list(pool.map(ask, range(count)))
        return sum(tokens for tokens, _ in done), [ended - begun for _, ended in done]

    return run, [rendered[number] for number in chosen]


def their_rounds(
    folder: Path, facts: dict[str, Any], prompts: Sequence[Sequence[int]]
) -> dict[str, Round]:
    """One call after another, and all as one batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import DiffusionGemmaForBlockDiffusion, logging
        from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation
    logging.set_verbosity_error()  # the tower for images, which nobody uses, has no weights here
    logging.disable_progress_bar()
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=torch.float32).eval()
    model.requires_grad_(False)
    length = facts["canvas_length"]
    config = generation.DiffusionGemmaGenerationConfig(
        max_new_tokens=length,
        max_denoising_steps=STEPS,
        sampler_config=generation.EntropyBoundSamplerConfig(0.1),
        t_min=0.4,
        t_max=0.8,
        stability_threshold=STEPS + 1,
        confidence_threshold=1e-9,
        eos_token_id=None,
        pad_token_id=0,
    )

    def generate(rows: Sequence[Sequence[int]]) -> int:
        with torch.inference_mode():
            made = model.generate(torch.tensor(rows), generation_config=config)
        ids = made.sequences if hasattr(made, "sequences") else made
        return (int(ids.shape[-1]) - len(rows[0])) * len(rows)

    def one_by_one(count: int) -> tuple[int, list[float]]:
        begun, tokens, latencies = time.perf_counter(), 0, []
        for row in prompts[:count]:
            tokens += generate([row])
            latencies.append(time.perf_counter() - begun)
        return tokens, latencies

    def as_a_batch(count: int) -> tuple[int, list[float]]:
        begun = time.perf_counter()
        tokens = generate(prompts[:count])
        return tokens, [time.perf_counter() - begun] * count

    return {"one by one": one_by_one, "as a batch": as_a_batch}


def row_of(side: str, count: int, tokens: int, latencies: list[float]) -> dict[str, Any]:
    ordered = sorted(latencies)
    return {
        "side": side,
        "at_once": count,
        "tokens_per_second": round(tokens / ordered[-1], 1),
        "latency_p50_s": round(ordered[(len(ordered) - 1) // 2], 2),
        "latency_p99_s": round(ordered[-1], 2),
        "tokens": tokens,
        "load_1min": round(os.getloadavg()[0], 1),
    }


def measured(rounds: dict[str, Round]) -> list[dict[str, Any]]:
    for run in rounds.values():
        run(1)  # warms up
    rows = []
    for count in AT_ONCE:
        here: list[dict[str, Any]] = []
        for side, run in rounds.items():
            if count > 1 or side != "as a batch":  # of one it is the same call
                here.append(row_of(side, count, *run(count)))
                print(json.dumps(here[-1]), flush=True)
        theirs = max(row["tokens_per_second"] for row in here if row["side"] != "ours")
        for row in here:
            row["ratio"] = round(row["tokens_per_second"] / theirs, 2)
        print(f"{count} at once: {here[0]['ratio']} times transformers' better", flush=True)
        rows += here
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", choices=("tiny", "mid"), default="mid")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    shared = "our requests share passes, which on CPU they do not by themselves"
    parser.add_argument("--together", action="store_const", const=True, help=shared)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        facts = saved_model(Path(folder), given.size)
        ours, prompts = our_rounds(Path(folder), together=given.together)
        theirs = their_rounds(Path(folder), facts, prompts)
        rows = measured({"ours": ours, **theirs})
    report = {
        "command": " ".join(["python", "tests/benchmarks/throughput.py", *sys.argv[1:]]),
        "machine": {"processor": import_module("cpu_step").processor(), "cores": os.cpu_count()},
        "versions": {n: version(n) for n in ("torch", "transformers")}
        | {"python": platform.python_version()},
        "conditions": {
            "model": given.size,
            "prompt": len(prompts[0]),
            "canvas": facts["canvas_length"],
            "steps": STEPS,
            "threads": given.threads,
            "dtype": "float32",
        },
        "rows": rows,
    }
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Random mixes of requests: each hears what it hears alone, whoever comes along.

DGEMMA_MIXES=1000 .venv/bin/python -m pytest tests/runtime/test_random_mixes.py
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from dgemma_backend import Engine, open_engine
from dgemma_backend.events import Draft, Finished, TextDelta
from dgemma_backend.runtime.scheduler import Limits

MIXES = int(os.environ.get("DGEMMA_MIXES", "250"))
REQUESTS = 100
SHARED = "the old river is green and nobody knows why"


@dataclass(frozen=True)
class Asked:
    """A request, and how many of its events the reader takes before it leaves; None: all."""

    question: str
    settings: dict[str, Any]
    drafts: bool = False
    takes: int | None = None


Heard = list[tuple[Asked, list[object]]]


def essence(event: object) -> object:
    """An event without the times in it."""
    if not isinstance(event, Finished):
        return event
    reply, usage = event.reply, event.reply.usage
    counts = usage.denoising_steps, usage.canvases, usage.completion_tokens, usage.rerolled
    return reply.text, reply.finish_reason, counts


def hear(engine: Engine, asked: Asked, wait: float = 0.0) -> list[object]:
    time.sleep(wait)
    stream: Any = engine.stream(asked.question, settings=asked.settings, drafts=asked.drafts)
    with closing(stream):
        return [essence(event) for event in islice(stream, asked.takes)]


def random_request(rng: Random, engine: Engine) -> Asked:
    """Any settings; a stop string, if any, is one that this very answer comes to."""
    words = rng.choice((5, 5, 10, 10, 20, 300))
    question = SHARED if rng.random() < 0.3 else ""
    question += " ".join(rng.choices(SHARED.split(), k=words))
    settings = {
        "seed": rng.randrange(1000),
        "temperature": rng.choice((1.0, 0.0, 0.6, 1.7)),
        "max_tokens": rng.randint(1, 20),
        "max_denoising_steps": rng.randint(1, 3),
        "top_k": rng.choice((None, None, 20)),
        "top_p": rng.choice((None, None, 0.9)),
        "t_min": 0.05,
        "t_max": rng.choice((0.1, 0.8)),
    }
    asked = Asked(question, settings)
    if rng.random() < 0.3:
        text = "".join(each.text for each in heard_text(engine, asked))
        begin = rng.randrange(max(1, len(text)))
        if stop := text[begin : begin + rng.randint(1, 3)]:
            asked = replace(asked, settings={**settings, "stop": stop})
    drafts = rng.random() < 0.4
    return replace(asked, drafts=drafts, takes=rng.choice((None, None, None, rng.randint(1, 4))))


def heard_text(engine: Engine, asked: Asked) -> list[TextDelta]:
    return [each for each in hear(engine, asked) if isinstance(each, TextDelta)]


@pytest.fixture(scope="module")
def forgetful(random_folder: Path) -> Iterator[Engine]:
    limits = Limits(prefix_bytes=0)
    with open_engine(random_folder, device="cpu", dtype="float32", limits=limits) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(forgetful: Engine) -> Heard:
    """Requests, and what each hears when nobody else is there."""
    rng = Random(4)
    asked = [random_request(rng, forgetful) for _ in range(REQUESTS)]
    return [(each, hear(forgetful, each)) for each in asked]


class Crowd:
    """Sees how many requests a tick serves."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served: list[int] = []
        passes = engine._worker._scheduler._passes
        real = passes.denoise

        def denoise(jobs: Sequence[Any]) -> None:
            self.served.append(len(jobs))
            real(jobs)

        monkeypatch.setattr(passes, "denoise", denoise)


def check_mixes(
    engine: Engine,
    alone: Heard,
    mixes: int,
    crowd: Crowd,
    compared: Callable[[list[object]], object] = list,
) -> None:
    with ThreadPoolExecutor(6) as pool:
        for seed in range(mixes):
            rng = Random(seed)
            mix = rng.choices(alone, k=rng.choice((2, 2, 3, 3, 4, 5, 6)))
            waits = [rng.choice((0.0, rng.uniform(0, 0.02))) for _ in mix]
            asked = [each for each, _ in mix]
            found = list(pool.map(hear, [engine] * len(mix), asked, waits))
            for (each, wanted), heard in zip(mix, found, strict=True):
                assert compared(heard) == compared(wanted), f"mix {seed}: {each}"
    together = sum(count > 1 for count in crowd.served)
    assert together > len(crowd.served) / 3, "the requests were hardly ever there together"


@pytest.mark.slow
def test_a_request_hears_in_any_company_what_it_hears_alone(
    forgetful: Engine,
    alone: Heard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drafts, entropies and all, bit for bit."""
    assert len({str(heard) for _, heard in alone}) > REQUESTS * 0.9
    check_mixes(forgetful, alone, MIXES, Crowd(forgetful, monkeypatch))


def without_entropy(heard: list[object]) -> list[object]:
    return [replace(each, mean_entropy=0.0) if isinstance(each, Draft) else each for each in heard]


@pytest.mark.slow
def test_so_it_does_where_others_left_prefixes(
    random_folder: Path, alone: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the last bits of entropies: a prompt is encoded in other pieces then, and products
    of other shapes are summed in another order."""
    limits = Limits(prefix_bytes=1 << 18)
    with open_engine(random_folder, device="cpu", dtype="float32", limits=limits) as engine:
        check_mixes(engine, alone, MIXES // 5, Crowd(engine, monkeypatch), without_entropy)
        store: Any = engine._worker._scheduler._passes._prefixes  # type: ignore[attr-defined]
        assert 0 < store.bytes <= 1 << 18


def test_an_isolated_request_gets_the_same_logits_bit_for_bit_under_any_load(
    random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others share their passes beside it, which changes the last bits of theirs."""
    engine: Any = open_engine(random_folder, device="cpu", dtype="float32", together=True)
    seen: list[torch.Tensor] = []
    passes = engine._worker._scheduler._passes
    real_step, real_denoise = passes._step, engine._model.denoise
    at_work: list[Any] = []

    def step(jobs: list[Any]) -> Any:
        at_work[:] = jobs
        return real_step(jobs)

    def denoise(*given: Any) -> Any:
        logits = real_denoise(*given)
        if at_work[0].request.settings.isolate:
            assert len(at_work) == 1
            seen.append(logits[0].dense().clone())
        return logits

    monkeypatch.setattr(passes, "_step", step)
    monkeypatch.setattr(engine._model, "denoise", denoise)
    crowd = Crowd(engine, monkeypatch)
    settings = {"max_tokens": 24, "max_denoising_steps": 4, "isolate": True}
    with engine, ThreadPoolExecutor(8) as pool:
        for seed in range(5):
            asked = Asked(SHARED, {**settings, "seed": seed}, drafts=True)
            wanted = hear(engine, asked)
            logits = seen.copy()
            seen.clear()
            load = {**settings, "isolate": False, "max_tokens": 40}
            others = [pool.submit(hear, engine, Asked(SHARED, {**load, "seed": n})) for n in (1, 2)]
            assert hear(engine, asked) == wanted
            assert len(seen) == len(logits) >= 3
            assert all(map(torch.equal, seen, logits))
            seen.clear()
            for other in others:
                other.result(60)
    assert crowd.served.count(3) > 10

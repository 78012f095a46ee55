"""The training loop: processes of one thread each, whose gradients are averaged.

One thread a process because the model is so small that two threads mostly wait for one another.
The schedule runs on a clock, not on steps, so that the time is kept on a busy machine; all
processes use the clock of the first.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from dgemma_backend.chat.protocol import Gemma4Protocol
from tiny_trainer.export import export
from tiny_trainer.objective import batch_loss, make_batch
from tiny_trainer.optimizer import Optimizers, rate_factor
from tiny_trainer.rendering import Encoded, encode, protocol_of, training_examples
from tiny_trainer.shape import new_model, tied_constants

GUESSING_FROM = 0.35  # share of the time after which half of the steps are self-conditioned
CURRICULUM = ((0.2, 64), (0.45, 112), (2.0, 256))  # until this share: prompts of so many tokens
CLIP = 1.0
LOG_EVERY = 25
SAVE_SECONDS = 180.0


@dataclass(frozen=True)
class Plan:
    """Everything a run depends on; it is saved beside the checkpoint."""

    work: str  # folder with tokenizer.json; state, log and exports go there
    minutes: float
    processes: int = 2
    prompts_per_process: int = 20
    seed: int = 1
    resume: bool = False
    start: str | None = None  # state.pt of an earlier run: a later stage begins with its weights
    rate: float = 1.0  # share of the full learning rates


@dataclass
class Clock:
    """How far a run is: steps, and seconds of wall and CPU time, earlier sittings included."""

    step: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    prompts: int = 0


def train(plan: Plan) -> None:
    """Train in `plan.processes` processes; the last weights are exported to `work`/final."""
    meeting = Path(plan.work) / "meeting"
    meeting.unlink(missing_ok=True)
    spawn(_work, args=(plan, str(meeting)), nprocs=plan.processes)


def _work(rank: int, plan: Plan, meeting: str) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=plan.processes,
        timeout=timedelta(minutes=10),
    )
    try:
        Trainer(rank, plan).run()
    finally:
        dist.destroy_process_group()


class Trainer:
    """One process of a run."""

    def __init__(self, rank: int, plan: Plan) -> None:
        self.rank, self.plan = rank, plan
        self.folder = Path(plan.work)
        self.model = new_model(plan.seed)
        self.optimizers = Optimizers(self.model)
        self.clock = Clock()
        if plan.resume:
            self._load(self.folder / "state.pt")
        elif plan.start is not None:
            self._load(Path(plan.start))
            self.clock = Clock()
        here = f"{plan.seed}/{rank}/{self.clock.step}"
        self.rng = Random(here)
        self.generator = torch.Generator().manual_seed(self.rng.randrange(2**31))
        self.examples = encoded_stream(here, protocol_of(self.folder))
        self.progress = 0.0
        self.tied = tied_constants(self.model)

    def run(self) -> None:
        """Step until the time is over."""
        began, cpu_began = time.monotonic(), time.process_time()
        before, saved = Clock(**asdict(self.clock)), 0.0
        while self.progress < 1.0:
            losses = self._step()
            self.clock.wall = before.wall + time.monotonic() - began
            self.clock.cpu = before.cpu + time.process_time() - cpu_began
            if self.rank == 0 and self.clock.step % LOG_EVERY == 0:
                self._log(*losses)
            if self.rank == 0 and self.clock.wall - saved > SAVE_SECONDS:
                saved = self.clock.wall
                self._save()
        if self.rank == 0:
            self._log(*losses)
            self._save()
            export(self.model, self.folder, self.folder / "final")

    def _step(self) -> tuple[float, float]:
        along = 1.0 if self.plan.start else self.progress  # a later stage is past the beginning
        limit = next(tokens for until, tokens in CURRICULUM if along < until)
        picked = self._pick(limit)
        config = self.model.config
        batch = make_batch(
            picked,
            config.canvas_length,
            config.vocab_size,
            config.pad_token_id,
            self.rng,
            self.generator,
        )
        guessing = along > GUESSING_FROM and self.rng.random() < 0.5
        loss, restored = batch_loss(self.model, batch, guessing, self.generator)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizers.step(self.plan.rate * rate_factor(self.clock.step, self.progress))
        self.clock.step += 1
        self.clock.prompts += len(picked) * self.plan.processes
        return loss.item(), restored.item()

    def _pick(self, limit: int) -> list[Encoded]:
        picked: list[Encoded] = []
        while len(picked) < self.plan.prompts_per_process:
            example = next(self.examples)
            if len(example.prompt) <= limit:
                picked.append(example)
        return picked

    def _average_gradients(self) -> None:
        """Mean over processes; the first one's clock travels with them."""
        gradients: list[Tensor] = []
        for weight in self.model.parameters():
            if weight.grad is None:  # a step without self-conditioning does not reach its weights
                weight.grad = torch.zeros_like(weight)
            gradients.append(weight.grad)
        progress = self.clock.wall / (60 * self.plan.minutes) if self.rank == 0 else 0.0
        flat = torch.cat([*(each.flatten() for each in gradients), torch.tensor([progress])])
        dist.all_reduce(flat)
        self.progress = flat[-1].item()
        parts = (flat[:-1] / self.plan.processes).split([each.numel() for each in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        for weight in self.tied:
            assert weight.grad is not None
            weight.grad.fill_(weight.grad.mean().item())

    def _log(self, loss: float, restored: float) -> None:
        line = {
            **asdict(self.clock),
            "progress": round(self.progress, 4),
            "loss": round(loss, 4),
            "restored": round(restored, 4),
        }
        line = {key: round(value, 3) for key, value in line.items()}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "clock": asdict(self.clock),
        }
        partial = self.folder / "state.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "state.pt")

    def _load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.clock = Clock(**state["clock"])


def encoded_stream(seed: str, protocol: Gemma4Protocol) -> Iterator[Encoded]:
    """The endless training mixture in ids."""
    for example in training_examples(seed):
        yield encode(example, protocol)

"""The training loop: processes of one thread each, whose gradients are averaged.

One thread a process because the model is so small that two threads mostly wait for one another.
The schedule runs on the CPU time of the first process, so that a busy machine delays a run but
does not change it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from tiny_trainer.drills import Drills
from tiny_trainer.export import export
from tiny_trainer.objective import Learner, Losses, add_noise, batch_loss, reading_loss
from tiny_trainer.optimizer import Optimizers, rate_factor
from tiny_trainer.packing import Scene, pack
from tiny_trainer.rendering import encode, protocol_of
from tiny_trainer.shape import new_model, tied_constants
from tiny_trainer.tasks.registry import training_scene
from tiny_trainer.words import TRAINING

DRILLING, DRILLED = 5.0, 12.0  # minutes of drills alone, and when all but LASTING of them are over
LASTING = 0.04
EASIEST, RAMP_MINUTES = 0.1, 30.0  # the curriculum's first level, and when the last is reached
READING_UNTIL, READING_SHARE = 12.0, 0.8  # minutes with steps that only read, and their share
GUESSING_FROM = 15.0  # CPU minutes after which half of the steps are self-conditioned
SHORT, LONG = 200, 720  # the longest scene, in encoded tokens, on the first and last level
LONGEST_PROMPT = 560
FEW_QUESTIONS = 4  # scenes of so many answers get two canvases an answer, larger ones get one
CLIP = 1.0
LOG_EVERY = 25
SAVE_SECONDS = 180.0


@dataclass(frozen=True)
class Plan:
    """Everything a run depends on; it is saved beside the checkpoint. Minutes are CPU minutes of
    each process."""

    work: str  # folder with tokenizer.json; state, log and exports go there
    minutes: float
    cool_down: float  # the last minutes, in which the learning rate falls to zero
    processes: int = 2
    tokens: int = 2000  # a step and process, encoded and canvas tokens together
    seed: int = 1
    next_weight: float = 0.5  # of the next-token loss
    curriculum: bool = True  # else everything is as hard as at the end from the beginning
    resume: bool = False
    start: str | None = None  # state.pt of an earlier run: a later stage begins with its weights


@dataclass
class Clock:
    """How far a run is: steps, and seconds of wall and CPU time, earlier sittings included.

    `earlier` are the CPU seconds of the stages before this one.
    """

    step: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    answers: int = 0
    tokens: int = 0
    earlier: float = 0.0


def train(plan: Plan) -> None:
    """Train in `plan.processes` processes; the last weights are exported to `work`/final."""
    meeting = Path(plan.work).resolve() / "meeting"  # a URL needs the whole path
    meeting.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so ends its daemons
    spawn(_work, args=(plan, str(meeting)), nprocs=plan.processes, daemon=True)


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
        torch.manual_seed(plan.seed)
        self.learner = Learner(new_model(plan.seed))
        self.optimizers = Optimizers(self.learner)
        self.clock = Clock()
        if plan.resume:
            self._load(self.folder / "state.pt")
        elif plan.start is not None:
            self._load(Path(plan.start))
            before = self.clock
            self.clock = Clock(step=before.step, earlier=before.earlier + before.cpu)
        here = f"{plan.seed}/{rank}/{self.clock.step}"
        self.rng = Random(here)
        self.generator = torch.Generator().manual_seed(self.rng.randrange(2**31))
        self.protocol = protocol_of(self.folder)
        self.drills = Drills(self.protocol, self.learner.model.config.vocab_size)
        self.tied = tied_constants(self.learner.model)
        self.now = self.clock.cpu  # CPU seconds of the first process, in every process
        self.seen: defaultdict[str, list[float]] = defaultdict(list)

    @property
    def minutes(self) -> float:
        """CPU minutes of learning so far, earlier stages included."""
        return (self.clock.earlier + self.now) / 60

    def run(self) -> None:
        """Step until the time is over."""
        began, cpu_began = time.monotonic(), time.process_time()
        before, saved = Clock(**asdict(self.clock)), 0.0
        while self.now < 60 * self.plan.minutes:
            self._step()
            self.clock.wall = before.wall + time.monotonic() - began
            self.clock.cpu = before.cpu + time.process_time() - cpu_began
            if self.rank == 0 and self.clock.step % LOG_EVERY == 0:
                self._log()
            if self.rank == 0 and time.monotonic() - began - saved > SAVE_SECONDS:
                saved = time.monotonic() - began
                self._save()
        if self.rank == 0:
            self._log()
            self._save()
            export(self.learner.model, self.folder, self.folder / "final")

    def _step(self) -> None:
        reading = bool(self.plan.next_weight) and self.rng.random() < self._reading_share()
        scenes = self._scenes(reading)
        if reading:
            losses = reading_loss(self.learner, scenes, self.plan.next_weight, self.generator)
        else:
            noise = add_noise(scenes, self.learner.model.config.vocab_size, self.generator)
            guessing = self.minutes > GUESSING_FROM and self.rng.random() < 0.5
            losses = batch_loss(
                self.learner, scenes, noise, guessing, self.plan.next_weight, self.generator
            )
        self.learner.zero_grad(set_to_none=True)
        losses.total.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.learner.parameters(), CLIP)
        left = self.plan.minutes - self.now / 60
        self.optimizers.step(rate_factor(self.clock.step, left, self.plan.cool_down))
        self.clock.step += 1
        self.clock.answers += sum(len(scene.tasks) for scene in scenes) * self.plan.processes
        self.clock.tokens += sum(scene.tokens for scene in scenes) * self.plan.processes
        if self.rank == 0:
            self._note(scenes, losses)

    def _level(self) -> float:
        if not self.plan.curriculum:
            return 1.0
        return min(1.0, EASIEST + (1 - EASIEST) * self.minutes / RAMP_MINUTES)

    def _reading_share(self) -> float:
        if self.minutes < DRILLING and self.plan.curriculum:
            return 1.0
        return READING_SHARE if self.minutes < READING_UNTIL else 0.0

    def _drill_share(self) -> float:
        if not self.plan.curriculum:
            return LASTING
        return min(1.0, max(LASTING, (DRILLED - self.minutes) / (DRILLED - DRILLING)))

    def _scenes(self, reading: bool) -> list[Scene]:
        """As many scenes as a step has tokens for; when only reading, canvases cost nothing."""
        level = self._level()
        words, longest = replace(TRAINING, level=level), SHORT + level * (LONG - SHORT)
        config = self.learner.model.config
        scenes: list[Scene] = []
        brief = self.minutes < DRILLING and self.plan.curriculum
        wanted = self.plan.tokens / 2 if brief else self.plan.tokens
        used = 0
        while used < wanted:
            drilling = self.rng.random() < self._drill_share()
            if drilling:
                examples = self.drills.draw(self.rng)
            else:
                drawn = training_scene(self.rng, words)
                examples = [encode(each, self.protocol) for each in drawn]
            examples = [each for each in examples if len(each.prompt) <= LONGEST_PROMPT]
            if not examples:
                continue
            twice = 2 if len(examples) <= FEW_QUESTIONS else 1
            scene = pack(
                examples,
                config.canvas_length,
                config.sliding_window,
                config.pad_token_id,
                twice,
                self.rng,
                of_prompts=not drilling,  # random ids cannot be foreseen
            )
            if scene.ids.numel() <= longest:
                scenes.append(scene)
                used += scene.ids.numel() if reading else scene.tokens
        return scenes

    def _average_gradients(self) -> None:
        """Mean over processes; the first one's clock travels with them."""
        gradients: list[Tensor] = []
        for weight in self.learner.parameters():
            if weight.grad is None:  # a step without self-conditioning does not reach its weights
                weight.grad = torch.zeros_like(weight)
            gradients.append(weight.grad)
        now = self.clock.cpu if self.rank == 0 else 0.0
        flat = torch.cat([*(each.flatten() for each in gradients), torch.tensor([now])])
        dist.all_reduce(flat)
        self.now = flat[-1].item()
        parts = (flat[:-1] / self.plan.processes).split([each.numel() for each in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        for weight in self.tied:
            assert weight.grad is not None
            weight.grad.fill_(weight.grad.mean().item())

    def _note(self, scenes: list[Scene], losses: Losses) -> None:
        """Remember what the next line of the log is the mean of."""
        self.seen["loss"].append(losses.total.item())
        self.seen["next"].append(losses.next_token)
        self.seen["foreseen"].append(losses.next_right)
        if not losses.restored.numel():  # a step that only read
            return
        tasks = [task for scene in scenes for task in scene.tasks]
        for task, share in zip(tasks, losses.restored.tolist(), strict=True):
            if share == share:  # not nan
                self.seen[task].append(share)

    def _log(self) -> None:
        means = {name: sum(values) / len(values) for name, values in sorted(self.seen.items())}
        self.seen.clear()
        line = {**asdict(self.clock), "level": self._level(), **means}
        line = {key: round(value, 3) for key, value in line.items()}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _save(self) -> None:
        state = {
            "learner": self.learner.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "clock": asdict(self.clock),
        }
        partial = self.folder / "state.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "state.pt")

    def _load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.learner.load_state_dict(state["learner"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.clock = Clock(**state["clock"])

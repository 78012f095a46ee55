"""Train the embedded model from nothing: tokenizer, training, checkpoint.

    python examples/tiny_model/train.py --out src/dgemma_backend/tiny/checkpoint

takes 150 minutes on two idle CPU cores. `--resume` goes on after a break.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded, here and in the workers

from tiny_trainer.rendering import texts_for_tokenizer
from tiny_trainer.shape import VOCABULARY
from tiny_trainer.tasks.registry import NEVER_FUSED
from tiny_trainer.tokenizer import common_words, save_tokenizer, train_tokenizer
from tiny_trainer.training import Plan, train

TOKENIZER_EXAMPLES = 30_000
COMMON_WORDS = 260


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the finished checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/tiny_model"), help="state and log")
    parser.add_argument("--minutes", type=float, default=150.0, help="CPU minutes a process")
    parser.add_argument("--cool-down", type=float, default=45.0, help="the last of these minutes")
    parser.add_argument("--processes", type=int, default=2, help="one CPU core each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--next-weight", type=float, default=0.5, help="of the next-token loss")
    parser.add_argument("--no-curriculum", action="store_true", help="all as hard as at the end")
    parser.add_argument("--start", type=Path, help="go on from the state.pt of another run")
    parser.add_argument("--resume", action="store_true", help="go on from --work")
    chosen = parser.parse_args()
    work: Path = chosen.work
    if not chosen.resume:
        begin(work, chosen.start, chosen.seed)
    plan = Plan(
        str(work),
        chosen.minutes,
        chosen.cool_down,
        chosen.processes,
        seed=chosen.seed,
        next_weight=chosen.next_weight,
        curriculum=not chosen.no_curriculum,
        resume=chosen.resume,
        start=str(chosen.start) if chosen.start else None,
    )
    (work / "plan.json").write_text(json.dumps(asdict(plan), indent=2) + "\n")
    train(plan)
    print(f"State, log and checkpoint are in {work}.")
    if chosen.out:
        shutil.copytree(work / "final", chosen.out, dirs_exist_ok=True)
        print(f"The checkpoint is in {chosen.out}.")


def begin(work: Path, start: Path | None, seed: int) -> None:
    """An empty folder with a tokenizer: that of an earlier run, or a new one."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if start:
        shutil.copy(start.parent / "tokenizer.json", work)
        return
    texts = list(texts_for_tokenizer(TOKENIZER_EXAMPLES, f"tokenizer/{seed}"))
    common = common_words(texts, COMMON_WORDS, NEVER_FUSED)
    save_tokenizer(train_tokenizer(texts, VOCABULARY, common), work)


if __name__ == "__main__":
    main()

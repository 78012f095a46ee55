"""Train the embedded model from nothing: tokenizer, training, checkpoint.

    python examples/tiny_model/train.py --out src/dgemma_backend/tiny/checkpoint

takes about an hour on two CPU cores. `--resume` goes on after a break.
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
from tiny_trainer.tokenizer import save_tokenizer, train_tokenizer
from tiny_trainer.training import Plan, train

TOKENIZER_EXAMPLES = 20_000


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--work", type=Path, default=Path("build/tiny_model"), help="state and log")
    parser.add_argument("--minutes", type=float, default=55.0, help="time to train")
    parser.add_argument("--processes", type=int, default=2, help="one CPU core each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="go on from the state.pt of a finished run")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the learning rates")
    parser.add_argument("--resume", action="store_true", help="go on from --work")
    chosen = parser.parse_args()
    work: Path = chosen.work
    if not chosen.resume:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if chosen.start:
            shutil.copy(chosen.start.parent / "tokenizer.json", work)
        else:
            texts = texts_for_tokenizer(TOKENIZER_EXAMPLES, f"tokenizer/{chosen.seed}")
            save_tokenizer(train_tokenizer(texts, VOCABULARY), work)
    plan = Plan(
        str(work),
        chosen.minutes,
        chosen.processes,
        seed=chosen.seed,
        resume=chosen.resume,
        start=str(chosen.start) if chosen.start else None,
        rate=chosen.rate,
    )
    (work / "plan.json").write_text(json.dumps(asdict(plan), indent=2) + "\n")
    train(plan)
    shutil.copytree(work / "final", chosen.out, dirs_exist_ok=True)
    print(f"The checkpoint is in {chosen.out}; state and log are in {work}.")


if __name__ == "__main__":
    main()

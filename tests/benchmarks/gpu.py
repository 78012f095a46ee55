"""What kernels and a denoising step reach on this GPU, beside the least time they could take.

    python tests/benchmarks/gpu.py         # the full-size model, 9 minutes at most
    python tests/benchmarks/gpu.py --toy   # a toy of it; runs on any machine

The full-size model gets random weights on the device, 51 GB of them in bfloat16. Every kernel is
checked against float32 on fresh inputs, and the whole model against transformers and float64 rows
on the same tensors; then kernels, steps, tokens per second, first text and memory are measured in
bfloat16, FP8 and INT4 beside the floor of `gpu_parts/roofline.py`, and an autoregressive step of
the same weights. It needs torch and Triton, transformers for its half, and no network.

`gpu-<device>.json` and, as a table, `gpu-<device>.md` go to the folder `--out`. Meanwhile results
are lines of `gpu-running.jsonl` there, each written at once: `--report` makes the other two of it
if all was killed. Ends with code 1 if a check failed. Without CUDA a toy runs in Triton's
interpreter: everything is executed and checked, and the times mean nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def parser(phases: Sequence[str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ",".join(phases)
    made.add_argument("--budget", type=float, default=540.0, help="seconds for everything")
    made.add_argument("--phases", default=names, help=f"some of {names}")
    made.add_argument("--only", default="", help="kernels whose name holds this")
    made.add_argument("--replace", default="", help="operations left to their reference, by comma")
    made.add_argument("--toy", action="store_true", help="tiny shapes; needs no GPU")
    made.add_argument("--out", type=Path, help="folder for the results; of a toy a temporary one")
    made.add_argument("--report", type=Path, help="the lines of a run that was killed")
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--journal", type=Path, help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "kernels"), str(HERE)]
    phases = list(import_module("gpu_parts.plan").SECONDS)
    options = parser(phases).parse_args(arguments)
    if options.worker:
        return int(import_module("gpu_parts.worker").work(options))
    names = options.phases.split(",")
    if unknown := set(names) - set(phases):
        print(f"there is no phase {', '.join(sorted(unknown))}: only {', '.join(phases)}")
        return 2
    program = import_module("gpu_parts.program")
    if options.out is None:
        options.out = Path(mkdtemp(prefix="gpu-toy-")) if options.toy else HERE / "results"
    if options.report:
        return int(program.report(options.report, options.out))
    return int(program.run(options, Path(__file__), names))


if __name__ == "__main__":
    sys.exit(main())

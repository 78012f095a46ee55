"""The process that measures. It may die of a kernel's fault; `program` starts another then."""

import os
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .interpreter import prepare
from .journal import Clock, DeviceLostError, Journal, OutOfTimeError
from .plan import DEVICE_LOST, REFUSED, SECONDS

if TYPE_CHECKING:
    from .bench import Bench


def work(options: Any) -> int:
    """Run the phases that `options` names; the journal has what came of them."""
    cuda = torch.cuda.is_available()
    if not cuda and not options.toy:
        print("torch sees no CUDA device here: --toy runs without one")
        return REFUSED
    if not cuda:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton looks when it is first imported
        prepare()
    from .bench import Bench
    from .machine import machine_facts
    from .shapes import real_shapes, toy_shapes

    bench = Bench(
        shapes=toy_shapes() if options.toy else real_shapes(),
        device=torch.device("cuda" if cuda else "cpu"),
        journal=Journal(options.journal),
        clock=Clock(options.budget),
        toy=options.toy,
        only=options.only,
        replaced=tuple(filter(None, options.replace.split(","))),
    )
    if not bench.journal.rows:
        bench.journal.add("machine", **machine_facts(bench.device), toy=options.toy)
    try:
        with torch.inference_mode():
            _run_phases(bench, options.phases.split(","))
    except DeviceLostError as lost:
        bench.journal.add("lost", suspect=lost.suspect)
        return DEVICE_LOST
    return 0


def _run_phases(bench: "Bench", names: list[str]) -> None:
    runs = _phases()
    scale = bench.clock.left_in_all / sum(SECONDS[name] for name in names)
    for name in names:
        bench.journal.phase = name
        bench.clock.begin_phase(SECONDS[name] * scale)
        begun = bench.clock.spent
        try:
            runs[name](bench)
        except OutOfTimeError as cut:
            bench.journal.add("cut", why=str(cut))
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001  the phases after it may do better
            trace = traceback.format_exc().splitlines()[-12:]
            why = f"{type(error).__name__}: {error}"[:500]
            bench.journal.add("error", why=why, trace=trace)
            bench.give_up_if_lost("")
        bench.free()
        bench.journal.add("phase", seconds=round(bench.clock.spent - begun, 1))


def _phases() -> Mapping[str, Callable[["Bench"], None]]:
    from .compiling import compile_all
    from .kernel_checks import check_small, measure_kernels
    from .machine import measure_machine
    from .parity import check_model, check_quantized
    from .speeds import measure_speeds
    from .steps import measure_steps

    def quantized_steps(bench: "Bench", *forms: str) -> None:
        for form in forms:
            check_quantized(bench, form)
        for form in forms:
            measure_steps(bench, form)

    return {
        "machine": measure_machine,
        "compile": compile_all,
        "small": check_small,
        "parity": check_model,
        "kernels": measure_kernels,
        "steps-bf16": partial(measure_steps, form="bf16"),
        "steps-fp8": lambda bench: quantized_steps(bench, "fp8", "w8a8"),
        "steps-int4": lambda bench: quantized_steps(bench, "int4"),
        **{
            f"speeds-{form}": partial(measure_speeds, form=form) for form in ("bf16", "fp8", "int4")
        },
    }

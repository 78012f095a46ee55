"""The phases by name, in their order, and what share of the seconds each gets.

machine     bandwidth and matrix rates: the ceilings
compile     what steps launch, in several processes; registers and spills
small       every kernel at awkward sizes against float32
parity      the whole model in bfloat16: layers, logits, vocabulary statistics
kernels     each kernel at the real sizes: right, its time, its floor, torch's time
steps-*     a whole step: as a graph, launch by launch, transformers'; layers of quantised formats
speeds-*    tokens a second, first text, one token at a time

What a phase saves, later ones may use; with fewer phases each gets more.
"""

SECONDS = {
    "machine": 10,
    "compile": 60,
    "small": 40,
    "parity": 45,
    "kernels": 100,
    "steps-bf16": 50,
    "speeds-bf16": 25,
    "steps-fp8": 60,
    "speeds-fp8": 25,
    "steps-int4": 70,
    "speeds-int4": 25,
}
REFUSED = 2  # exit code for what cannot be measured here
DEVICE_LOST = 7  # and of a worker whose device a kernel's fault took away
GOAL_TIMES_FLOOR = 1.15
GOAL_INT4_GB = 18.0

"""What the files hold against what the configuration asks for, and why they may differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dgemma_backend.config.reader import shown
from dgemma_backend.errors import CheckpointError
from dgemma_backend.weights.expected import Expected
from dgemma_backend.weights.layout import DECODER, Shape
from dgemma_backend.weights.shards import QUANTIZED, Shard

#: How tensors end that only quantised variants have. (Our own router has a `per_expert_scale`.)
_QUANTIZED_ENDS = (
    ".weight_scale",
    ".weight_scale_2",
    ".weight_scale_inv",
    ".input_scale",
    "_packed",
    ".packed",
    ".values",
    ".scales",
    ".biases",
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".zero_point",
)


def check_tensors(folder: Path, expected: Mapping[str, Expected], shards: Sequence[Shard]) -> None:
    """Raise CheckpointError unless `shards` hold just what is `expected`, in its dtypes.

    The message names how many differ, the first of them, and what may have happened.
    """
    found: dict[str, Path] = {}
    for shard in shards:
        for name in shard.tensors:
            if name in found:
                raise CheckpointError(
                    f"{shown(name)} is stored twice, in {found[name]} and {shard.path}"
                )
            found[name] = shard.path
    check_names(folder, expected, found)
    for shard in shards:
        for name, stored in shard.tensors.items():
            wanted = expected[name].dtypes
            if stored.dtype not in wanted:
                why = (
                    "Its config.json has no quantization_config, which would tell how to read "
                    "quantised weights: take the file that was published with them"
                    if stored.dtype in QUANTIZED and expected[name].role == "model"
                    else "Is config.json of another variant?"
                )
                raise CheckpointError(
                    f"{shard.path}: {name} is stored as {stored.dtype}, must be "
                    f"{' or '.join(wanted)}. {why}"
                )
            check_shape(shard.path, name, stored.shape, expected[name].shape)


def check_names(folder: Path, expected: Mapping[str, Expected], found: Iterable[str]) -> None:
    """Raise CheckpointError unless just the `expected` names are `found`."""
    has = set(found)
    missing = sorted(expected.keys() - has)
    unknown = sorted(has - expected.keys())
    if unknown and any(name.endswith(_QUANTIZED_ENDS) for name in unknown):
        name = next(name for name in unknown if name.endswith(_QUANTIZED_ENDS))
        raise CheckpointError(
            f"{folder} holds {shown(name)}, as quantised variants do, and its config.json does not "
            f"say so. Take the config.json that was published with these weights, or the bfloat16 "
            f"checkpoint google/diffusiongemma-26B-A4B-it"
        )
    if missing and not any(name.startswith(DECODER) for name in has):
        raise CheckpointError(
            f"{folder} holds another architecture's weights: none of its {len(has)} tensors is "
            f"named {DECODER}..., the first is {shown(min(has, default='absent'))}"
        )
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the {len(expected)} tensors its config.json asks "
            f"for, {shown(missing[0])} among them. The download may be unfinished, or config.json "
            f"is of another model."
        )
    if unknown:
        raise CheckpointError(
            f"{folder} holds {len(unknown)} tensors that its config.json has no place for, "
            f"{shown(unknown[0])} among them. Is config.json of another model?"
        )


def check_shape(where: Path, name: str, found: Shape, wanted: Shape) -> None:
    """Raise CheckpointError if a tensor is not of the shape the configuration gives it."""
    if found != wanted:
        raise CheckpointError(
            f"{where}: {name} has shape {found}, and config.json makes it {wanted}. Is "
            f"config.json of another model?"
        )

"""Which tensors a checkpoint's files have to hold: name, shape, dtype and what becomes of each.

A matrix in full precision is one tensor. A quantised one is several:

    our own layout    NAME.PART for each part of the matrix class, `experts.gate_up_proj.packed`;
                      NAME is what the matrix is called in full precision
    published         LAYER.weight_scale and so on for each linear layer; every expert's gate, up
                      and down projection is a layer of its own, `experts.7.up_proj.weight`
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from dgemma_backend.config import Encoding, ModelConfig, OwnQuantization, PublishedQuantization
from dgemma_backend.config.reader import shown
from dgemma_backend.errors import ConfigError
from dgemma_backend.weights.encodings import template
from dgemma_backend.weights.layout import (
    DECODER,
    ENCODER,
    ENCODER_TEXT,
    Shape,
    quantizable_shapes,
    text_shapes,
    vision_shapes,
)
from dgemma_backend.weights.shards import FLOATS
from dgemma_backend.weights.stream import STORED_DTYPES

Role = Literal["model", "part", "beside", "unused", "encoder copy", "vision"]
_EXPERTS = re.compile(r"(layers\.\d+\.experts)\.(gate_up|down)_proj")


class OwnPart(NamedTuple):
    """A part of a quantised matrix, as its class names it."""

    matrix: str
    part: str


class PublishedPart(NamedTuple):
    """The first tensor of a published matrix; the others are read along with it.

    `layers` are the linear layers whose rows make up the matrix, or its expert `expert`.
    """

    matrix: str
    encoding: Encoding
    expert: tuple[int, ...]  # empty for a matrix without experts
    layers: tuple[str, ...]


class Expected(NamedTuple):
    """Shape and possible dtypes of a stored tensor, and what it is for.

    "model" is loaded as it is (its name in the model lacks DECODER). "part" becomes part of a
    quantised matrix, as `place` says; "beside" is read along with such a one. "encoder copy"
    must equal the decoder's, "vision" belongs to the tower. "unused" has no effect here.
    """

    shape: Shape
    role: Role
    dtypes: tuple[str, ...] = tuple(FLOATS)
    place: OwnPart | PublishedPart | None = None


def expected_tensors(config: ModelConfig) -> dict[str, Expected]:
    """Every tensor of the files by its name in them, for the shape and encoding in `config`.

    Raises ConfigError for an encoding that this shape cannot have.
    """
    found: dict[str, Expected] = {}
    encoded = _encoded(config)
    for name, shape in text_shapes(config).items():
        found |= encoded.get(name) or {DECODER + name: Expected(shape, "model")}
    for index in range(config.num_hidden_layers):
        name = f"{ENCODER_TEXT}layers.{index}.layer_scalar"
        found[name] = Expected((1,), "encoder copy")
    if config.vision is not None:
        shapes = vision_shapes(config.vision, config.hidden_size)
        found |= {ENCODER + name: Expected(shape, "vision") for name, shape in shapes.items()}
    return found


def encodings(config: ModelConfig) -> dict[str, Encoding]:
    """The encoding of each quantised matrix of the files, by its name in the model."""
    scheme = config.quantization
    if scheme is None:
        return {}
    shapes = quantizable_shapes(config)
    if isinstance(scheme, OwnQuantization):
        if unknown := sorted(scheme.matrices.keys() - {DECODER + name for name in shapes}):
            raise ConfigError(
                f"config.json: quantization_config names {shown(unknown[0])}, which is no matrix "
                f"of this model that may be quantised"
            )
        return {name.removeprefix(DECODER): each for name, each in scheme.matrices.items()}
    _check_left_out(config, scheme)
    found = {name: _published_encoding(name, shape, scheme) for name, shape in shapes.items()}
    return {name: each for name, each in found.items() if each is not None}


def _encoded(config: ModelConfig) -> dict[str, dict[str, Expected]]:
    """For each quantised matrix of the model, the tensors that stand for it."""
    shapes, scheme = quantizable_shapes(config), config.quantization
    if isinstance(scheme, PublishedQuantization):
        return {
            name: dict(_published_tensors(name, shapes[name], encoding, scheme.input_scales))
            for name, encoding in encodings(config).items()
        }
    found: dict[str, dict[str, Expected]] = {}
    for name, encoding in encodings(config).items():
        parts = template(encoding, shapes[name]).parts
        found[name] = {
            f"{DECODER}{name}.{part}": Expected(
                tuple(tensor.shape), "part", (STORED_DTYPES[tensor.dtype],), OwnPart(name, part)
            )
            for part, tensor in parts.items()
        }
    return found


def layers_of(name: str, shape: Shape) -> list[tuple[str, ...]]:
    """The published linear layers that make up a matrix, for each of its experts."""
    match = _EXPERTS.fullmatch(name)
    if match is None:
        return [(DECODER + name.removesuffix(".weight"),)]
    projections = ("gate_proj", "up_proj") if match[2] == "gate_up" else ("down_proj",)
    return [
        tuple(f"{DECODER}{match[1]}.{expert}.{each}" for each in projections)
        for expert in range(shape[0])
    ]


def _published_encoding(name: str, shape: Shape, scheme: PublishedQuantization) -> Encoding | None:
    layers = [layer for group in layers_of(name, shape) for layer in group]
    found = {layer: scheme.encoding_of(layer) for layer in layers}
    if len(set(found.values())) > 1:
        out = next(layer for layer, encoding in found.items() if encoding is None)
        raise ConfigError(
            f"config.json: quantization_config leaves out {out} and not its siblings. The experts "
            f"of a layer must all be stored alike."
        )
    encoding = found[layers[0]]
    if encoding is not None and encoding.kind == "nvfp4" and shape[-1] % 2:
        raise ConfigError(
            f"config.json: quantization_config stores columns in pairs, and {name} has {shape[-1]}"
        )
    return encoding


def _published_tensors(
    name: str, shape: Shape, encoding: Encoding, input_scales: bool
) -> Iterator[tuple[str, Expected]]:
    *leading, rows, columns = shape
    for number, layers in enumerate(layers_of(name, shape)):
        expert = (number,) if leading else ()
        place: PublishedPart | None = PublishedPart(name, encoding, expert, layers)
        for layer in layers:
            tensors = layer_tensors(encoding, rows // len(layers), columns)
            for ending, (size, dtypes) in tensors.items():
                role: Role = "beside" if place is None else "part"
                yield f"{layer}.{ending}", Expected(size, role, dtypes, place)
                place = None
            if input_scales:  # activations are not quantised here
                yield f"{layer}.input_scale", Expected((), "unused", ("F32",))


def layer_tensors(
    encoding: Encoding, rows: int, columns: int
) -> dict[str, tuple[Shape, tuple[str, ...]]]:
    """Ending, shape and dtypes of the tensors of a published linear layer, the numbers first."""
    if encoding.kind == "fp8":
        return {
            "weight": ((rows, columns), ("F8_E4M3",)),
            "weight_scale": ((rows, 1), tuple(FLOATS)),
        }
    scales = (rows, -(-columns // encoding.group))
    if encoding.kind == "int4":
        return {
            "weight_packed": ((rows, -(-columns // 8)), ("I32",)),
            "weight_scale": (scales, tuple(FLOATS)),
            "weight_shape": ((2,), ("I64", "I32")),
        }
    return {
        "weight": ((rows, columns // 2), ("U8",)),
        "weight_scale": (scales, ("F8_E4M3",)),
        "weight_scale_2": ((), ("F32",)),
    }


def _check_left_out(config: ModelConfig, scheme: PublishedQuantization) -> None:
    """Raise ConfigError if a linear layer is quantised that has to be in full precision here."""
    dense = [f"{DECODER}layers.{i}.router.proj" for i in range(config.num_hidden_layers)]
    if config.vision is not None:
        tower = vision_shapes(config.vision, config.hidden_size)
        dense += [
            ENCODER + name.removesuffix(".weight")
            for name, shape in tower.items()
            if name.endswith(".weight") and len(shape) == 2
        ]
    for layer in dense:
        if scheme.encoding_of(layer) is not None:
            raise ConfigError(
                f"config.json: quantization_config does not leave out {layer}, which is only read "
                f"in full precision"
            )

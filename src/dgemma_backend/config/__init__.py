"""What a checkpoint says about itself: config.json and generation_config.json.

Nothing has a default: a fact that is missing is an error, and so is one that nobody here knows.
No class is chosen and no code is run because of what a file says. Sizes are bounded before
anything is allocated. Nothing in here imports torch.

    reader    JSON files as untrusted input
    layout    where each fact stands in the two files, and which keys have no effect here
    bounds    smallest and largest value of every number
    quantization       how matrices are stored, ours and three published schemes
    model, decoding    the two dataclasses
"""

from dgemma_backend.config.decoding import DecodingDefaults
from dgemma_backend.config.model import LAYER_TYPES, ModelConfig
from dgemma_backend.config.quantization import (
    Encoding,
    OwnQuantization,
    PublishedQuantization,
    Quantization,
)

__all__ = [
    "LAYER_TYPES",
    "DecodingDefaults",
    "Encoding",
    "ModelConfig",
    "OwnQuantization",
    "PublishedQuantization",
    "Quantization",
]

"""Block-diffusion decoding: noise, schedule, sampler and stop rule around a function
`logits_of(canvas, guess)`. Nothing here knows what computes the logits.

Settled on one reference where the two published ones differ: like transformers, and unlike
google-deepmind/gemma, the argmax canvas is what gets committed and what stability compares.
"""

from dgemma_backend.diffusion.denoise import (
    CanvasDenoiser,
    DecodingSettings,
    DenoiseStep,
    denoise_canvas,
)
from dgemma_backend.diffusion.noise import CanvasNoise
from dgemma_backend.diffusion.sampler import EntropyBoundSampler
from dgemma_backend.diffusion.schedule import LinearSchedule
from dgemma_backend.diffusion.stopping import AnyOf, Never, StableAndConfident, StepStatistics

__all__ = [
    "AnyOf",
    "CanvasDenoiser",
    "CanvasNoise",
    "DecodingSettings",
    "DenoiseStep",
    "EntropyBoundSampler",
    "LinearSchedule",
    "Never",
    "StableAndConfident",
    "StepStatistics",
    "denoise_canvas",
]

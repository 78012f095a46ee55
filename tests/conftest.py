"""Random models of any shape, ours and transformers' with the same weights."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

# The same cases in every run, and no clock: machines that run tests are busy ones.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate")

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Facts = dict[str, Any]

TOY: Facts = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "model_type": "diffusion_gemma",
    "canvas_length": 8,
    "tie_word_embeddings": True,
    "boi_token_id": 3,
    "eoi_token_id": 4,
    "image_token_id": 5,
    "text_config": {
        "model_type": "diffusion_gemma_text",
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_global_key_value_heads": 1,
        "global_head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "final_logit_softcapping": 30.0,
        "use_bidirectional_attention": "vision",
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 1000000.0,
                "partial_rotary_factor": 0.25,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "vision_config": {
        "model_type": "gemma4_vision",
        "use_clipped_linears": False,
        "standardize": True,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 16,
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "position_embedding_size": 16,
        "default_output_length": 4,
        "rms_norm_eps": 1e-6,
    },
}


class Pair(NamedTuple):
    """Our model and transformers' model, with equal weights."""

    ours: Any
    theirs: Any


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two cores are shared by test workers: one torch thread each."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_facts() -> Callable[..., Facts]:
    """A complete `config.json` as a dict; keyword arguments replace text facts or the canvas."""

    def make(canvas_length: int = 8, **text: Any) -> Facts:
        facts = {**TOY, "canvas_length": canvas_length}
        facts["text_config"] = {**TOY["text_config"], **text}
        return facts

    return make


@pytest.fixture(scope="session")
def random_model() -> Callable[..., Any]:
    """Our model with random weights for a `config.json` dict."""
    import torch

    from dgemma_backend.config import ModelConfig
    from dgemma_backend.model import DiffusionGemma

    def make(facts: Mapping[str, Any], seed: int = 0, canvas_prefix: int | None = None) -> Any:
        generator = torch.Generator().manual_seed(seed)
        config = ModelConfig.from_dict(facts)
        if canvas_prefix is not None:
            config = replace(config, canvas_prefix_window=canvas_prefix)
        model = DiffusionGemma(config).requires_grad_(False)
        for name, tensor in model.state_dict().items():
            tensor.copy_(_random_weight(name, tensor, generator))
        return model

    return make


def _random_weight(name: str, tensor: Any, generator: Any) -> Any:
    """Values that keep activations near one: norms about 1, matrices by their fan-in."""
    import torch

    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return (0.2 * noise + 1) * tensor.shape[0] ** -0.25
    if "norm" in name or name.endswith(("scale", "layer_scalar")):
        return 0.2 * noise + (0.8 if name.endswith("layer_scalar") else 1.0)
    return noise * tensor.shape[-1] ** -0.5


@pytest.fixture(scope="session")
def model_pair(random_model: Callable[..., Any]) -> Callable[..., Pair]:
    """Ours and transformers' model with equal weights, transformers' sliding rule in both."""
    import torch

    with warnings.catch_warnings():  # of its own imports
        warnings.simplefilter("ignore")
        from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    def make(facts: Facts, seed: int = 0, dtype: Any = torch.float32) -> Pair:
        reach = facts["text_config"]["sliding_window"] - 1
        ours = random_model(facts, seed, canvas_prefix=reach).to(dtype)
        theirs = DiffusionGemmaForBlockDiffusion(DiffusionGemmaConfig(**facts)).to(dtype).eval()
        theirs.requires_grad_(False)
        theirs.set_experts_implementation("eager")  # grouped_mm refuses narrow bf16 experts
        weights = {f"model.decoder.{name}": tensor for name, tensor in ours.state_dict().items()}
        for name, tensor in ours.state_dict().items():
            if name.endswith("layer_scalar"):
                weights[f"model.encoder.language_model.{name}"] = tensor
        known = theirs.load_state_dict(weights, strict=False)
        assert not known.unexpected_keys, known.unexpected_keys
        return Pair(ours, theirs)

    return make

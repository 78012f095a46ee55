"""Writes a checkpoint in the published layout: the names and files of the hub's repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dgemma_backend.model import DiffusionGemma
from tiny_trainer.shape import CONFIG, GENERATION_CONFIG

VISION = "model.encoder.vision_tower."


def export(model: DiffusionGemma, tokenizer_folder: Path, folder: Path) -> None:
    """Write config, generation config, tokenizer and bfloat16 weights into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("config", CONFIG), ("generation_config", GENERATION_CONFIG)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    if tokenizer_folder != folder:
        shutil.copyfile(tokenizer_folder / "tokenizer.json", folder / "tokenizer.json")
    save_file(published_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})


def published_tensors(model: DiffusionGemma) -> dict[str, Tensor]:
    """All tensors under their published names, in bfloat16."""
    tensors = {f"model.decoder.{name}": value for name, value in model.state_dict().items()}
    for number in range(model.config.num_hidden_layers):
        scalar = tensors[f"model.decoder.layers.{number}.layer_scalar"]
        tensors[f"model.encoder.language_model.layers.{number}.layer_scalar"] = scalar
    tensors |= untrained_vision_tower(model.config.hidden_size)
    return {
        name: value.detach().to(torch.bfloat16).clone().contiguous()
        for name, value in sorted(tensors.items())
    }


def untrained_vision_tower(hidden: int) -> dict[str, Tensor]:
    """The smallest tower, so that the file has every published name; it sees nothing."""
    vision = CONFIG["vision_config"]
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    patch = 3 * vision["patch_size"] ** 2
    heads = vision["num_attention_heads"] * vision["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.embed_vision.embedding_projection.weight": (hidden, width),
        f"{VISION}patch_embedder.input_proj.weight": (width, patch),
        f"{VISION}patch_embedder.position_embedding_table": (
            2,
            vision["position_embedding_size"],
            width,
        ),
        f"{VISION}std_bias": (width,),
        f"{VISION}std_scale": (width,),
    }
    for number in range(vision["num_hidden_layers"]):
        layer = f"{VISION}encoder.layers.{number}."
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            shapes[f"{layer}{norm}_layernorm.weight"] = (width,)
        for part in "qkv":
            shapes[f"{layer}self_attn.{part}_proj.linear.weight"] = (heads, width)
        shapes[f"{layer}self_attn.o_proj.linear.weight"] = (width, heads)
        for part in "qk":
            shapes[f"{layer}self_attn.{part}_norm.weight"] = (vision["head_dim"],)
        for part in ("gate", "up"):
            shapes[f"{layer}mlp.{part}_proj.linear.weight"] = (inner, width)
        shapes[f"{layer}mlp.down_proj.linear.weight"] = (width, inner)
    generator = torch.Generator().manual_seed(0)
    return {name: _untrained(name, shape, generator) for name, shape in shapes.items()}


def _untrained(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("std_bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    drawn: Tensor = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    return drawn

"""The embedded model: a small DiffusionGemma for demonstrations and tests (see MODEL_CARD.md)."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The folder with config.json, generation_config.json, tokenizer.json and model.safetensors."""

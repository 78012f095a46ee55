"""What `dgemma doctor --model` finds: the memory a model takes, against what there is."""

from collections.abc import Callable

from dgemma_backend.cli.findings import Finding, devices, places
from dgemma_backend.cli.terminal_text import size_in_words
from dgemma_backend.plugins import Plugins


def examine_model(
    model: str,
    quantization: str | None,
    context: int | None,
    canvases: int,
    tell: Callable[[str], None],
) -> list[Finding]:
    """The devices of this machine, what `model` would take on one, and whether it fits.

    Reads its config.json and no weights. Raises ModelNotFoundError, CheckpointError, ConfigError,
    UnknownPluginError or SettingError.
    """
    from dgemma_backend.config import ModelConfig
    from dgemma_backend.weights.memory import memory_needed
    from dgemma_backend.weights.sources import resolve_config

    format = Plugins.load().quantization(quantization)() if quantization else None
    config = ModelConfig.from_folder(resolve_config(model, tell=tell))
    stored = config.quantization.format if config.quantization else None
    context = min(8192, config.max_position_embeddings) if context is None else context
    found = memory_needed(config, format, context, canvases)
    weights = sum(found.weights.values())
    parts = ", ".join(f"{name} {size_in_words(size)}" for name, size in found.weights.items())
    numbers = quantization or stored or "bfloat16"
    tokens = f"{context} tokens" + (f" in each of {canvases} requests" if canvases > 1 else "")
    logits = f"{canvases} x {config.canvas_length} x {config.vocab_size}"
    return [
        *devices(),
        Finding("weights", "ok", f"{size_in_words(weights)} in {numbers}: {parts}"),
        Finding(
            "KV cache", "ok", f"{size_in_words(found.cache)} for {tokens}, sliding layers bounded"
        ),
        Finding("canvas", "ok", f"{size_in_words(found.canvas)}: {logits} logits, activations"),
        _total(found.total, smaller=stored is None and quantization is None),
    ]


def _total(total: int, *, smaller: bool) -> Finding:
    there = places()
    room = next((place for place, size in there.items() if size > total), None)
    detail = f"{size_in_words(total)}, beside what the runtime itself takes"
    if room is not None:
        return Finding("total", "ok", f"{detail}; fits {room}")
    sizes = ", ".join(f"{place} {size_in_words(size)}" for place, size in there.items())
    mend = "try --quantization int4" if smaller else "try a shorter --context"
    return Finding("total", "problem", f"{detail}; fits nowhere here: {sizes}", mend)

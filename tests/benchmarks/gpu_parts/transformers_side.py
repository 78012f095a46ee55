"""transformers' decoder on our tensors, and its denoising step: the other side of a comparison."""

import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgemma_backend.config import ModelConfig
from dgemma_backend.model import DiffusionGemma, KVCache
from dgemma_kernels.routing import Routing

from .shapes import Shapes

BOUND, T_MIN, T_MAX, STEPS, STEP = 0.1, 0.4, 0.8, 48, 24


def shared_decoder(shapes: Shapes, model: DiffusionGemma) -> tuple[Any, str]:
    """Its decoder with the very tensors of `model`, all in bfloat16; or why there is none."""
    try:
        return _shared_decoder(shapes, model), ""
    except Exception as error:  # noqa: BLE001  another version of it must not end the phase
        return None, f"transformers {version()}: {type(error).__name__}: {str(error)[:300]}"


def _shared_decoder(shapes: Shapes, model: DiffusionGemma) -> Any:
    modeling, _ = _modules()
    from transformers import DiffusionGemmaConfig

    config = DiffusionGemmaConfig(**dict(shapes.facts))
    # What `from_pretrained` chooses; without it they would take their slowest ways.
    config._attn_implementation = "sdpa"
    config._experts_implementation = "grouped_mm"
    with torch.device("meta"):
        decoder = modeling.DiffusionGemmaDecoderModel(config).eval()
    decoder.load_state_dict(model.state_dict(), assign=True)
    decoder.requires_grad_(False)
    # These two hold numbers that no checkpoint has, so they are still without memory.
    rotary = modeling.DiffusionGemmaTextRotaryEmbedding
    decoder.rotary_emb = rotary(config.text_config, device=model.device)
    scale = torch.tensor(float(config.text_config.hidden_size) ** 0.5, device=model.device)
    decoder.embed_tokens.embed_scale = scale
    return decoder


def version() -> str | None:
    """Of transformers, None without it."""
    try:
        import transformers
    except ImportError:
        return None
    return str(transformers.__version__)


def prefix_cache(decoder: Any, caches: Sequence[KVCache], config: ModelConfig) -> Any:
    """Our caches as one of theirs, copied; all have the same length."""
    from transformers import DynamicCache

    theirs = DynamicCache(config=decoder.config.text_config)
    for index, kind in enumerate(config.layer_types):
        sliding = kind == "sliding_attention"
        heads = config.num_key_value_heads if sliding else config.num_global_key_value_heads
        none = decoder.norm.weight.new_empty(heads, 0, 0)
        reach = config.sliding_window - 1 if sliding else None
        pairs = [cache.layers[index].prefix(none, reach) for cache in caches]
        keys, values = (torch.stack(each) for each in zip(*pairs, strict=True))
        theirs.update(keys, values, index)
    return theirs


def positions(caches: Sequence[KVCache], canvas: int, device: torch.device) -> Tensor:
    """`(rows, canvas)` ids of the places after each cache."""
    first = torch.tensor([cache.length for cache in caches], device=device)
    return first.unsqueeze(1) + torch.arange(canvas, device=device)


def logits_of(decoder: Any, hidden: Tensor, cap: float) -> Tensor:
    """As its model head does it: softcapped float32 of what is rounded to the weights' dtype."""
    logits = F.linear(hidden, decoder.embed_tokens.weight).to(torch.float32)
    return torch.tanh(logits / cap) * cap


def route_as(decoder: Any, routings: Sequence[Routing]) -> None:
    """Let every layer's router say what ours said."""
    for layer, routing in zip(decoder.layers, routings, strict=True):
        found = routing.probabilities, routing.weights, routing.experts
        layer.router.forward = lambda _, found=found: found


def route_freely(decoder: Any) -> None:
    """Undo `route_as`."""
    for layer in decoder.layers:
        layer.router.__dict__.pop("forward", None)


def denoising_step(
    decoder: Any, caches: Sequence[KVCache], config: ModelConfig
) -> Callable[[], Any]:
    """A function that takes one of its steps, from a canvas and the logits of the step before."""
    _, generation = _modules()
    from transformers import LogitsProcessorList

    device, rows, canvas = decoder.norm.weight.device, len(caches), config.canvas_length
    theirs, table = prefix_cache(decoder, caches, config), decoder.embed_tokens.weight
    owner = SimpleNamespace(
        config=SimpleNamespace(text_config=SimpleNamespace(vocab_size=config.vocab_size)),
        model=SimpleNamespace(decoder=SimpleNamespace(embed_tokens=SimpleNamespace(weight=table))),
    )
    settings = generation.EntropyBoundSamplerConfig(BOUND)
    sampler = generation.EntropyBoundSampler(settings, canvas, config.vocab_size, STEPS)
    stop = generation.StableAndConfidentStoppingCriteria(1, 0.005)
    schedule = generation.LinearTemperatureScheduleLogitsProcessor(T_MIN, T_MAX, STEPS)
    ids = torch.randint(config.vocab_size, (rows, canvas), device=device)
    places = positions(caches, canvas, device)
    shape = rows, canvas, config.vocab_size
    before = torch.randn(shape, dtype=table.dtype, device=device).mul_(4)

    def forward(**inputs: Any) -> Any:
        inputs |= {"decoder_attention_mask": None}
        hidden = decoder(**inputs).last_hidden_state
        cap = config.final_logit_softcapping
        return SimpleNamespace(logits=logits_of(decoder, hidden, cap))

    def step() -> Any:
        return generation.DiffusionGemmaGenerationMixin._denoising_step(
            owner,
            decoder_forward=forward,
            current_canvas=ids,
            argmax_canvas=ids,
            input_ids=ids,
            decoder_position_ids=places,
            self_conditioning_logits=before,
            mask_mapping=None,
            past_key_values=theirs,
            finished_denoising=torch.zeros(rows, dtype=torch.bool, device=device),
            cur_step=STEP,
            sampler=sampler,
            logits_processor=LogitsProcessorList([schedule]),
            diffusion_stopping_criteria=stop,
        )

    return step


def _modules() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.diffusion_gemma import generation_diffusion_gemma as generation
        from transformers.models.diffusion_gemma import modeling_diffusion_gemma as modeling
    return modeling, generation

"""Both passes equal transformers' DiffusionGemma on random models of every shape."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

CONFIGURATIONS = 200
FP32_TOLERANCE = 1e-5  # same formulas, sums in another order
BF16_TOLERANCE = 1e-1  # they round tempered logits and expert sums to bfloat16, we do not


def random_shape(rng: random.Random) -> dict[str, Any]:
    """Facts of a small model: every dimension that the passes treat specially is drawn."""
    layers = rng.randint(1, 4)
    kinds = [rng.choice(["sliding_attention", "full_attention"]) for _ in range(layers - 1)]
    kv_heads, global_kv_heads = rng.choice([1, 2]), rng.choice([1, 2])
    experts = rng.randint(1, 6)
    return {
        "canvas_length": rng.choice([1, 3, 8, 16]),
        "vocab_size": rng.choice([17, 64, 131]),
        "hidden_size": rng.choice([16, 24, 40]),
        "intermediate_size": rng.choice([8, 33]),
        "num_hidden_layers": layers,
        "layer_types": [*kinds, "full_attention"],
        "num_attention_heads": 2 * rng.choice([1, 2]),
        "num_key_value_heads": kv_heads,
        "num_global_key_value_heads": global_kv_heads,
        "head_dim": rng.choice([8, 16]),
        "global_head_dim": rng.choice([16, 32]),
        "num_experts": experts,
        "top_k_experts": rng.randint(1, experts),
        "moe_intermediate_size": rng.choice([4, 12]),
        "sliding_window": rng.choice([2, 5, 8, 24]),
        "final_logit_softcapping": rng.choice([5.0, 30.0]),
    }


def prefix_lengths(window: int, rng: random.Random) -> list[int]:
    """One to three sequences whose lengths lie around the window."""
    choices = [1, max(1, window - 1), window, window + 1, 3 * window]
    return [rng.choice(choices) for _ in range(rng.randint(1, 3))]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    ours, theirs = ours.double(), theirs.double()
    scale = theirs.abs().max().clamp_min(1e-12)
    return float((ours - theirs).abs().max() / scale)


class Theirs:
    """transformers' encoder and decoder over a left-padded batch, positions without the pads."""

    def __init__(self, model: Any, rows: list[torch.Tensor]) -> None:
        from transformers import DynamicCache

        self.model = model
        self.cache = DynamicCache(config=model.config.get_text_config())
        longest = max(row.numel() for row in rows)
        self.pads = torch.tensor([longest - row.numel() for row in rows])
        self.mask = torch.arange(longest)[None] >= self.pads[:, None]
        self.length = 0
        self.encode(torch.stack([torch.nn.functional.pad(r, (longest - len(r), 0)) for r in rows]))

    def encode(self, tokens: torch.Tensor) -> None:
        steps = torch.arange(self.length, self.length + tokens.shape[1])
        if self.length:
            self.mask = torch.nn.functional.pad(self.mask, (0, tokens.shape[1]), value=True)
        positions = (steps[None] - self.pads[:, None]).clamp_min(0)
        encoder = self.model.model.encoder
        masks = encoder.create_masks_for_generate(
            config=self.model.config,
            inputs_embeds=torch.empty(*tokens.shape, 0, dtype=self.model.dtype),
            attention_mask=self.mask,
            past_key_values=self.cache,
            position_ids=positions,
        )
        encoder(
            input_ids=tokens,
            attention_mask=masks,
            position_ids=positions,
            past_key_values=self.cache,
        )
        self.length += tokens.shape[1]

    def denoise(self, canvas: torch.Tensor, tempered: torch.Tensor | None) -> torch.Tensor:
        steps = torch.arange(self.length, self.length + canvas.shape[1])
        mask = torch.nn.functional.pad(self.mask, (0, canvas.shape[1]), value=True)
        masks = self.model.model.decoder.create_diffusion_decoder_attention_mask(
            config=self.model.config,
            inputs_embeds=canvas.unsqueeze(-1).to(self.model.dtype),
            past_key_values=self.cache,
            decoder_attention_mask=mask,
        )
        out = self.model(
            decoder_input_ids=canvas,
            self_conditioning_logits=tempered,
            decoder_attention_mask=masks,
            past_key_values=self.cache,
            decoder_position_ids=steps[None] - self.pads[:, None],
        )
        logits: torch.Tensor = out.logits
        return logits


def cached_difference(caches: list[Any], theirs: Theirs) -> float:
    """Worst relative difference of keys and values over rows and layers."""
    worst = 0.0
    for row, cache in enumerate(caches):
        for layer, mine in enumerate(cache.layers):
            other = theirs.cache.layers[layer]
            held = min(cache.length, other.keys.shape[2])
            if mine.window is not None:
                held = min(held, mine.window - 1)
            if held == 0:
                continue
            keys, values = mine.prefix(mine._keys[:, :0], held)
            worst = max(
                worst,
                relative(keys, other.keys[row, :, -held:]),
                relative(values, other.values[row, :, -held:]),
            )
    return worst


def worst_error(pair: Any, facts: dict[str, Any], seed: int, rng: random.Random) -> float:
    """Prefill, canvas with and without a guess, commit, second canvas: the worst difference."""
    ours, model = pair
    text = facts["text_config"]
    generator = torch.Generator().manual_seed(seed)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(text["vocab_size"], shape, generator=generator)

    rows = [ids(length) for length in prefix_lengths(text["sliding_window"], rng)]
    caches = [ours.new_cache() for _ in rows]
    theirs = Theirs(model, rows)
    pieces = rng.randint(1, 4)
    for piece in range(pieces):  # ours is fed in pieces, theirs at once
        parts = [row.tensor_split(pieces)[piece] for row in rows]
        some = [i for i, part in enumerate(parts) if part.numel()]
        if some:
            ours.encode([parts[i] for i in some], [caches[i] for i in some])
    errors = [cached_difference(caches, theirs)]
    for _ in range(2):
        canvas, temperature = ids(len(rows), facts["canvas_length"]), rng.uniform(0.3, 1.0)
        context = ours.canvas_context(caches)
        first = ours.denoise(canvas, None, context).dense()
        their_first = theirs.denoise(canvas, None)
        again = ours.denoise(canvas, ours.guess(their_first, temperature), context).dense()
        errors += [
            relative(first, their_first),
            relative(again, theirs.denoise(canvas, their_first / temperature)),
        ]
        committed = ids(len(rows), facts["canvas_length"])
        ours.encode(list(committed), caches)
        theirs.encode(committed)
        errors.append(cached_difference(caches, theirs))
    return max(errors)


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
@torch.no_grad()
def test_every_pass_equals_transformers_in_float32(
    seed: int,
    toy_facts: Callable[..., Any],
    model_pair: Callable[..., Any],
    record_property: Callable[[str, object], None],
) -> None:
    rng = random.Random(seed)
    facts = toy_facts(**random_shape(rng))
    error = worst_error(model_pair(facts, seed), facts, seed, rng)
    record_property("worst_relative_error", error)  # `--junitxml` collects them
    assert error < FP32_TOLERANCE


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_every_pass_is_near_transformers_in_bfloat16(
    seed: int, toy_facts: Callable[..., Any], model_pair: Callable[..., Any]
) -> None:
    rng = random.Random(seed)
    shape = random_shape(rng)
    # All experts at once: rounding may otherwise flip a router's choice, which is no small error.
    shape["top_k_experts"] = shape["num_experts"]
    facts = toy_facts(**shape)
    pair = model_pair(facts, seed, torch.bfloat16)
    assert worst_error(pair, facts, seed, rng) < BF16_TOLERANCE


def root_mean_square(difference: torch.Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


@torch.no_grad()
def test_bfloat16_is_no_further_from_float32_than_transformers_is(
    toy_facts: Callable[..., Any], model_pair: Callable[..., Any], random_model: Callable[..., Any]
) -> None:
    our_error, their_error = 0.0, 0.0
    for seed in range(16):
        shape = random_shape(random.Random(seed))
        shape["top_k_experts"] = shape["num_experts"]  # a flipped choice would drown the rounding
        facts = toy_facts(**shape)
        pair = model_pair(facts, seed, torch.bfloat16)
        reach = facts["text_config"]["sliding_window"] - 1
        exact = random_model(facts, seed, canvas_prefix=reach)
        exact.load_state_dict({k: v.float() for k, v in pair.ours.state_dict().items()})
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(
            facts["text_config"]["vocab_size"], (30 + facts["canvas_length"],), generator=generator
        )
        prompt, canvas = ids[:30], ids[30:].unsqueeze(0)
        logits = []
        for model in (pair.ours, exact):
            cache = model.new_cache()
            model.encode([prompt], [cache])
            logits.append(model.denoise(canvas, None, model.canvas_context([cache])).dense())
        theirs = Theirs(pair.theirs, [prompt]).denoise(canvas, None)
        our_error += root_mean_square(logits[0] - logits[1])
        their_error += root_mean_square(theirs - logits[1])
    assert 0 < our_error < 1.1 * their_error

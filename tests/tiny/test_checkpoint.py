"""The shipped files: published layout, same numbers as transformers, small."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dgemma_backend.chat.protocol import Gemma4Protocol
from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.config import DecodingDefaults, ModelConfig
from dgemma_backend.messages import Message
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.tiny import CHECKPOINT
from dgemma_backend.weights.checkpoint import load_into
from dgemma_kernels import reference_kernels

LONGER_THAN_THE_WINDOW = "Repeat after me: " + "river stone cloud bridge " * 20


def our_model() -> DiffusionGemma:
    config = ModelConfig.from_folder(CHECKPOINT)
    config = replace(config, canvas_prefix_window=config.sliding_window - 1)  # as transformers
    with torch.device("meta"):
        model = DiffusionGemma(config, reference_kernels())
    load_into(model, CHECKPOINT, dtype=torch.float32, device=torch.device("cpu"))
    return model.requires_grad_(False)


def test_the_checkpoint_is_at_most_8_megabytes() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 8_000_000


def test_naming_the_folder_does_not_load_torch() -> None:
    program = "import sys, dgemma_backend.tiny; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_stop_ids_are_the_published_control_tokens(tokenizer: ChatTokenizer) -> None:
    names = ("<eos>", "<turn|>", "<|tool_response>")
    expected = tuple(tokenizer.control_ids[name] for name in names)
    assert DecodingDefaults.from_folder(CHECKPOINT).stop_token_ids == expected


def test_the_files_state_the_published_decoding() -> None:
    defaults = DecodingDefaults.from_folder(CHECKPOINT)
    assert (defaults.max_denoising_steps, defaults.t_max, defaults.t_min) == (48, 0.8, 0.4)
    assert (defaults.entropy_bound, defaults.confidence_threshold) == (0.1, 0.005)


def test_layer_scalars_are_not_one_so_that_forgetting_them_shows() -> None:
    assert all(layer.layer_scalar.item() < 1 for layer in our_model().layers)  # type: ignore[operator]


def test_query_and_key_norms_are_one_number_each_as_published() -> None:
    norms = [w for name, w in our_model().named_parameters() if name.endswith("k_norm.weight")]
    norms += [w for name, w in our_model().named_parameters() if name.endswith("q_norm.weight")]
    assert len(norms) == 8
    assert all(bool((norm == norm[0]).all()) for norm in norms)


@pytest.mark.parametrize("text", ["Hi there!", LONGER_THAN_THE_WINDOW])
def test_transformers_loads_it_completely_and_computes_the_same(
    text: str, tokenizer: ChatTokenizer
) -> None:
    from transformers import DiffusionGemmaForBlockDiffusion

    theirs, report = DiffusionGemmaForBlockDiffusion.from_pretrained(
        CHECKPOINT, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    ours = our_model()
    prompt = torch.tensor(Gemma4Protocol(tokenizer).prompt_ids([Message.user(text)]))
    canvas = torch.randint(1280, (1, 32), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        cache = ours.new_cache()
        ours.encode([prompt], [cache])
        context = ours.canvas_context([cache])
        first = ours.denoise(canvas, None, context).dense()
        second = ours.denoise(canvas, ours.guess(first, 0.7), context).dense()
        asked = {"input_ids": prompt[None], "decoder_input_ids": canvas}
        their_first = theirs(**asked).logits
        their_second = theirs(**asked, self_conditioning_logits=their_first / 0.7).logits
    # Logits reach 30: this is 1e-6 of that. Ours attends to prefix and canvas one after another.
    torch.testing.assert_close(first, their_first, rtol=0, atol=3e-5)
    torch.testing.assert_close(second, their_second, rtol=0, atol=1e-4)

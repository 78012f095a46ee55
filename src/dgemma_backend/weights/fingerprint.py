"""What tells one checkpoint from another that goes by the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dgemma_backend.weights.sources import at_hand

_SAMPLES = 16
_SAMPLE_BYTES = 4096
_WHOLE_BYTES = 1 << 20  # files up to here are read whole


def fingerprint(model: str | Path) -> str | None:
    """16 hexadecimal digits of a model's files; None for a hub id that is not on this machine.

    Names, sizes, small files whole, and of each large one 16 samples spread over it: training or
    quantizing changes all of them. Reads less than 2 MB a file and asks no network. Raises as
    `resolve` does.
    """
    folder = at_hand(model)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors") and file.is_file():
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            _add(digest, file)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as content:
        if size <= _WHOLE_BYTES:
            digest.update(content.read())
            return
        for sample in range(_SAMPLES):
            content.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(content.read(_SAMPLE_BYTES))

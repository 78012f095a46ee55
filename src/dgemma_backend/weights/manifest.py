"""`SHA256SUMS`: what each file of a checkpoint must hash to, as `sha256sum` writes it.

A flipped byte in a weight goes unnoticed otherwise: the model loads, and is a little wrong. Files
in the Hugging Face cache need no manifest, there a weight file's name is its hash.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from dgemma_backend.config.reader import file_in, shown
from dgemma_backend.errors import CheckpointError

MANIFEST = "SHA256SUMS"
MAX_MANIFEST_BYTES = 4 << 20
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S{1,255})")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_manifest(folder: Path) -> dict[str, str] | None:
    """File name -> sha256 in hex, or None where `folder` has no manifest.

    Raises CheckpointError for a line that is neither empty nor of the form `HASH  NAME`.
    """
    if not os.path.lexists(Path(folder) / MANIFEST):
        return None
    path = file_in(folder, MANIFEST)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        text = raw.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if len(raw) > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
    sums: dict[str, str] = {}
    for line in filter(None, text.splitlines()):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise CheckpointError(f"{path} has a line that is no `sha256sum` line: {shown(line)}")
        sums[match[2]] = match[1]
    return sums


def expected_digest(path: Path, name: str, sums: dict[str, str] | None) -> str | None:
    """What the file `name`, which is really at `path`, must hash to; None if nobody says.

    Raises CheckpointError when there is a manifest and it leaves this file out.
    """
    if sums is not None:
        if name not in sums:
            raise CheckpointError(
                f"{MANIFEST} says nothing of {name}, though it stands for the whole folder "
                f"{path.parent}. Write it anew, or remove it."
            )
        return sums[name]
    if path.parent.name == "blobs" and _DIGEST.fullmatch(path.name):
        return path.name
    return None


def compare_digest(path: Path, wanted: str | None, found: str | None) -> None:
    """Raise CheckpointError if `wanted` is known and is not what was `found`."""
    if wanted is not None and wanted != found:
        raise CheckpointError(
            f"{path} is not the file it should be: its sha256 is {str(found)[:16]}..., expected "
            f"{wanted[:16]}.... Bytes were changed since it was written; fetch it again."
        )


def digest_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, names: list[str]) -> Path:
    """Write SHA256SUMS over the files `names` of `folder`, replacing one that is there."""
    folder = Path(folder)
    temporary = folder / f".{MANIFEST}.partial"
    text = manifest_text({name: file_in(folder, name) for name in names})
    temporary.write_text(text, encoding="ascii")
    return temporary.replace(folder / MANIFEST)


def manifest_text(files: Mapping[str, Path]) -> str:
    """What SHA256SUMS says of files by their names, wherever they are now."""
    return "".join(f"{digest_of(path)}  {name}\n" for name, path in sorted(files.items()))

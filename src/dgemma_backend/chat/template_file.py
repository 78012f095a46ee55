"""The chat template file of a model folder: recognised by its hash, never read for what it says.

Prompts are rendered by hand (see `protocol`). A file that is not one of the published templates
means that its checkpoint may expect another format, which is worth a warning and nothing more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

TEMPLATE_FILE = "chat_template.jinja"
MAX_BYTES = 1 << 20

PUBLISHED = {
    "9aeb7eac": "diffusiongemma-hub",
    "ae53464b": "gemma4-2026-07",
    "36e3a42e": "gemma4-2026-06",
    "2f1b4d75": "gemma4-2026-06 without the empty thought",
}
"""Published templates by the first eight digits of their SHA-256."""


def template_warning(folder: Path) -> str | None:
    """What to warn of if the template file in `folder` is unknown; None if it is known or absent.

    A file larger than MAX_BYTES is not hashed: no template is that long.
    """
    path = folder / TEMPLATE_FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            digest = f"more than {MAX_BYTES} bytes"
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return None
    if digest[:8] in PUBLISHED:
        return None
    return (
        f"{path} ({digest}) is not one of the chat templates this version knows. It is not "
        "used: prompts are rendered in the format of google/diffusiongemma-26B-A4B-it. If this "
        "checkpoint was trained with another format, its answers will suffer."
    )

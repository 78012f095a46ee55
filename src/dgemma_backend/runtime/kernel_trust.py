"""Kernels are compared with their reference once per device and version, and it is written down.

Only a clean pass is remembered, in `dgemma-backend/kernels.json` of the user's cache folder: a
driver, a Triton or a release that differs asks again.
"""

import hashlib
import json
import os
import tempfile
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import dgemma_kernels
from dgemma_kernels import Kernels
from dgemma_kernels.self_check import checked

_seen: dict[str, Kernels] = {}


def trusted(table: Kernels, device: torch.device, dtype: torch.dtype) -> Kernels:
    """`table` with every operation that is wrong on `device` done by the reference.

    Each of those is named in a RuntimeWarning. The comparison runs once per process at most,
    and not at all where an earlier process found everything right.
    """
    key = _key(table, device, dtype)
    if key in _seen:
        return _seen[key]
    if key in _remembered():
        _seen[key] = table
        return table
    sound, problems = checked(table, device, dtype)
    for problem in problems:
        warnings.warn(
            f"{problem} on {_name(device)}; the plain torch reference takes its place, which is "
            "slower. Please report it with the versions that `dgemma doctor` shows.",
            RuntimeWarning,
            stacklevel=2,
        )
    if not problems:
        _remember(key)
    _seen[key] = sound
    return sound


def _key(table: Kernels, device: torch.device, dtype: torch.dtype) -> str:
    facts = [table.name, _name(device), str(dtype), torch.__version__, str(torch.version.cuda)]
    facts += [_version("triton"), _sources()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device.type)
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _sources() -> str:
    """A hash of every kernel's source, so that a changed kernel is compared again."""
    found = hashlib.sha256()
    for path in sorted(Path(dgemma_kernels.__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dgemma-backend" / "kernels.json"


def _remembered() -> set[str]:
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {each for each in kept if isinstance(each, str)} if isinstance(kept, list) else set()


def _remember(key: str) -> None:
    with suppress(OSError):  # a cache that cannot be written costs a comparison, no more
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = sorted(_remembered() | {key})[-100:]
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(kept, file)
        Path(file.name).replace(path)

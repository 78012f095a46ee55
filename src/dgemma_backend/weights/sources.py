"""A model's name -> the local folder with its files.

A name is "tiny" (comes with this package), a folder, or the id of a Hugging Face repository. A
repository that is completely in the cache is used as it is, without asking the network whether
there is a newer revision: `pull` asks.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from dgemma_backend.config import ModelConfig
from dgemma_backend.config.reader import shown
from dgemma_backend.errors import CheckpointError, MissingDependencyError, ModelNotFoundError
from dgemma_backend.weights import hub
from dgemma_backend.weights.hub import Pulled

__all__ = ["TINY", "Pulled", "at_hand", "context_length", "pull", "resolve", "resolve_config"]

TINY = "tiny"
PUBLISHED = "google/diffusiongemma-26B-A4B-it"
_HUB_ID = re.compile(
    r"[a-z0-9]([\w.-]{0,94}\w)?/[a-z0-9]([\w.-]{0,94}\w)?", re.ASCII | re.IGNORECASE
)
_REVISION = re.compile(r"\w[\w./-]{0,250}", re.ASCII)
_log = logging.getLogger(__name__)

Tell = Callable[[str], None]


def resolve(
    model: str | Path,
    *,
    revision: str | None = None,
    progress: bool = True,
    tell: Tell | None = None,
) -> Path:
    """The folder of `model`, downloaded first if it is a hub id that is not in the cache.

    Args:
        model: A Path is always a folder; a str is "tiny", else a folder if there is one of that
            name, else a hub id. A folder called tiny is reached as "./tiny".
        revision: Branch, tag or commit, for a hub id only.
        progress: Show a bar on stderr while downloading.
        tell: Gets a sentence about the revision that is used, which is also logged.

    Raises ModelNotFoundError when there is no such model or it cannot be fetched now,
    CheckpointError or ConfigError when it cannot be used, MissingDependencyError when a hub id
    needs huggingface-hub and it is not installed.
    """
    folder = _local_folder(model)
    if folder is not None:
        if revision is not None:
            raise CheckpointError(
                f"revision={revision!r} is for hub ids; {shown(str(model))} is a folder, which "
                f"has only one. Leave it out."
            )
        return folder
    name = _hub_id(model, revision)
    pulled = hub.find_in_cache(name, revision)
    if pulled is None:
        return pull(name, revision, progress=progress, tell=tell).folder
    _say(f"{name} at revision {pulled.revision}, from the cache", tell)
    return pulled.folder


def resolve_config(
    model: str | Path, *, revision: str | None = None, tell: Tell | None = None
) -> Path:
    """A folder that holds at least the config.json of `model`; no weight is fetched for it.

    Takes a name and raises as `resolve` does.
    """
    folder = _local_folder(model)
    if folder is not None:
        return folder
    name = _hub_id(model, revision)
    try:
        return hub.find_config(name, revision, lambda text: _say(text, tell))
    except hub.NoSuchRepository as error:
        raise _not_known(name, error) from error


def context_length(model: str | Path) -> int | None:
    """Tokens of context that `model` has, None for a hub id whose files are not on this machine.

    Reads config.json alone and asks no network. Raises as `resolve` does.
    """
    folder = at_hand(model)
    if folder is None:
        return None
    return ModelConfig.from_folder(folder).max_position_embeddings


def at_hand(model: str | Path) -> Path | None:
    """The folder of `model`, None for a hub id whose files are not on this machine.

    Asks no network. Raises as `resolve` does.
    """
    folder = _local_folder(model)
    if folder is not None:
        return folder
    try:
        pulled = hub.find_in_cache(_hub_id(model, None), None)
    except MissingDependencyError:
        return None
    return None if pulled is None else pulled.folder


def pull(
    model: str,
    revision: str | None = None,
    destination: Path | None = None,
    *,
    progress: bool = True,
    tell: Tell | None = None,
) -> Pulled:
    """Fetch `revision` of a hub id, its newest by default; what is there already stays.

    Only config, tokenizer and safetensors files are fetched, into the Hugging Face cache or into
    the folder `destination`. A lost connection is taken up where it was lost; after a kill, the
    files that were complete are kept. Raises as `resolve` does.
    """
    if model == TINY:
        raise CheckpointError(f"{TINY!r} comes with this package: there is nothing to pull")
    name = _hub_id(model, revision)
    try:
        return hub.download(name, revision, destination, progress, lambda text: _say(text, tell))
    except hub.NoSuchRepository as error:
        raise _not_known(name, error) from error


def _not_known(name: str, error: hub.NoSuchRepository) -> ModelNotFoundError:
    near = _nearest(name, [PUBLISHED, *hub.cached_ids()])
    return ModelNotFoundError(f"{error} {_accepted()}{near}")


def _local_folder(model: str | Path) -> Path | None:
    """The folder that `model` names, None if it may be a hub id."""
    if model == TINY:
        return _embedded()
    if not isinstance(model, str | os.PathLike) or not str(model):
        raise ModelNotFoundError(f"there is no model {shown(model)}. {_accepted()}")
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        return Path(path)
    if os.path.exists(path):
        raise ModelNotFoundError(f"{path} is a file. Give the checkpoint's folder instead.")
    if _is_hub_id(model):
        return None
    near = _nearest(str(model), [TINY, PUBLISHED, *_neighbours(Path(path))])
    raise ModelNotFoundError(f"there is no model {str(model)!r}. {_accepted()}{near}")


def _embedded() -> Path:
    folder = Path(__file__).parent.parent / "tiny" / "checkpoint"
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"this installation lacks the model {TINY!r}, which should be in {folder}. Install "
            f"dgemma-backend anew, or train it: examples/tiny_model in the source."
        )
    return folder


def _is_hub_id(model: object) -> bool:
    sound = isinstance(model, str) and _HUB_ID.fullmatch(model)
    return bool(sound) and ".." not in str(model) and "--" not in str(model)


def _hub_id(model: str | Path, revision: str | None) -> str:
    if not _is_hub_id(model):
        raise ModelNotFoundError(f"{shown(str(model))} is no hub id. {_accepted()}")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ModelNotFoundError(f"{shown(revision)} is no branch, tag or commit")
    return str(model)


def _accepted() -> str:
    return (
        f"A model is {TINY!r} (built in), a checkpoint's folder, or a Hugging Face id such as "
        f"{PUBLISHED!r}."
    )


def _neighbours(path: Path) -> list[str]:
    """What stands beside the folder that is not there."""
    try:
        return [str(path.parent / each.name) for each in path.parent.iterdir() if each.is_dir()]
    except (OSError, ValueError):
        return []


def _nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean ...?" for the known name most like `name`, nothing if none is."""
    by_form: dict[str, str] = {}
    for each in known:
        by_form.setdefault(each.lower(), each)
        by_form.setdefault(each.rpartition("/")[2].lower(), each)  # the owner left out
    near = difflib.get_close_matches(name.lower(), by_form, n=1, cutoff=0.6)
    return f" Did you mean {by_form[near[0]]!r}?" if near else ""


def _say(text: str, tell: Tell | None) -> None:
    _log.info(text)
    if tell is not None:
        tell(text)

"""Hugging Face repositories, through huggingface-hub, which is imported when first needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from dgemma_backend.config import ModelConfig
from dgemma_backend.errors import CheckpointError, MissingDependencyError, ModelNotFoundError
from dgemma_backend.weights.shards import read_shards, shard_names

#: Files that are fetched: no code, no pickle, no other framework's weights, no subfolder.
WANTED = re.compile(r"[A-Za-z0-9._-]+\.(safetensors|json)|tokenizer\.model|SHA256SUMS")
#: Files under way at a time. When the process is killed these are lost; 5 GB each, as published.
FILES_AT_ONCE = 2
#: What says of which shape and encoding the weights are.
CONFIGS = ("config.json", "hf_quant_config.json")
NEEDED = ("config.json", "generation_config.json", "tokenizer.json")


class Pulled(NamedTuple):
    """A repository's files on this machine: where, and of which commit."""

    folder: Path
    revision: str


class NoSuchRepository(ModelNotFoundError):
    """The hub answered, and has no repository of that name that we may read."""


def find_in_cache(repository: str, revision: str | None) -> Pulled | None:
    """The repository's files in the cache, None unless all that is needed is there."""
    hub = _library()
    found = hub.try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(found, str):  # None, or a marker that there is no such file
        return None
    folder = Path(found).parent
    return None if missing_files(folder) else Pulled(folder, folder.name)


def find_config(repository: str, revision: str | None, tell: Callable[[str], None]) -> Path:
    """A folder with the repository's config.json, fetched alone if it is not in the cache.

    Raises as `download` does.
    """
    hub = _library()
    found = hub.try_to_load_from_cache(repository, CONFIGS[0], revision=revision)
    if isinstance(found, str):
        return Path(found).parent
    with _explained(repository, revision), _bars(hub, progress=False):
        folder = hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(CONFIGS), max_workers=1
        )
    tell(f"{repository} at revision {Path(folder).name}, its configuration alone")
    return Path(folder)


def missing_files(folder: Path) -> list[str]:
    """What a checkpoint needs and `folder` does not hold."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    try:
        return missing + [name for name in shard_names(folder) if not (folder / name).is_file()]
    except CheckpointError:
        return [*missing, "*.safetensors"]


def cached_ids() -> list[str]:
    """Ids of the repositories that the cache knows of."""
    cache = Path(_library().constants.HF_HUB_CACHE)
    folders = sorted(cache.glob("models--*--*"))
    return [each.name.removeprefix("models--").replace("--", "/", 1) for each in folders]


def download(
    repository: str,
    revision: str | None,
    destination: Path | None,
    progress: bool,
    tell: Callable[[str], None],
) -> Pulled:
    """Fetch what is WANTED of a repository, config.json first: another architecture's weights
    are not fetched at all.

    Raises NoSuchRepository, ModelNotFoundError when the hub cannot be reached, CheckpointError
    or ConfigError when what it has is not a DiffusionGemma checkpoint.
    """
    hub = _library()
    with _explained(repository, revision):
        info = hub.HfApi().model_info(repository, revision=revision)
        names = [each.rfilename for each in info.siblings or ()]
        _check_listing(repository, names)
        tell(f"{repository} at revision {info.sha}")
        commit = {"repo_id": repository, "revision": info.sha}
        if destination is not None:
            commit["local_dir"] = destination
        elif revision is None or revision != info.sha:
            commit["revision"] = revision or "main"  # so that the cache learns the name
        with _bars(hub, progress):
            config = Path(hub.hf_hub_download(**commit, filename="config.json"))
            ModelConfig.from_folder(config.parent)
            wanted = [name for name in names if WANTED.fullmatch(name)]
            folder = Path(
                hub.snapshot_download(**commit, allow_patterns=wanted, max_workers=FILES_AT_ONCE)
            )
    # they load torch, which asking for a config should not
    from dgemma_backend.weights.comparison import check_tensors
    from dgemma_backend.weights.expected import expected_tensors

    expected = expected_tensors(ModelConfig.from_folder(folder))
    check_tensors(folder, expected, read_shards(folder))
    return Pulled(folder, info.sha if destination is not None else folder.name)


def _check_listing(repository: str, names: list[str]) -> None:
    lacking = [name for name in NEEDED if name not in names]
    if not any(name.endswith(".safetensors") for name in names):
        lacking.append("*.safetensors")
    if lacking:
        raise CheckpointError(
            f"{repository} on the hub has no {' and no '.join(lacking)}: it is not a "
            f"DiffusionGemma checkpoint in the published layout"
        )


def _library() -> Any:
    try:
        return import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "models are fetched by huggingface-hub, which is not installed: "
            "pip install 'dgemma-backend[hub]'"
        ) from error


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turn the library's exceptions into ours."""
    errors: Any = import_module("huggingface_hub.errors")
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{repository} is gated. Accept its terms at https://huggingface.co/{repository}, "
            f"then log in: `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NoSuchRepository(
            f"the hub has no model {repository!r}, or it is private and you are not logged in."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{repository} has no revision {revision!r}") from error
    except errors.OfflineModeIsEnabled as error:
        raise _not_here(repository, "HF_HUB_OFFLINE forbids to fetch it") from error
    except (errors.HTTPError, OSError, RuntimeError) as error:  # also of httpx and of hf_xet
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _not_here(repository, f"fetching it failed ({why})") from error


def _not_here(repository: str, why: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{repository} is not, or not completely, on this machine, and {why}. With a network, "
        f"`dgemma pull {repository}` fetches what is missing; or give the folder of a copy."
    )


@contextmanager
def _bars(hub: Any, progress: bool) -> Iterator[None]:
    """Progress bars on or off; huggingface-hub knows only one switch for the whole process."""
    utils = hub.utils
    if progress or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()

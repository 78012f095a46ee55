"""Reads JSON that came with a checkpoint, and trusts none of it.

A file is capped in size, parsed without duplicate keys, NaN or endless nesting, and then read
through `Facts`: each key is taken, pinned to the one value we can serve, or on a written list of
keys without effect here. Whatever is left over is an error that names it.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from dgemma_backend.errors import CheckpointError, ConfigError

MAX_CONFIG_BYTES = 1 << 20  # the published config.json has 4 kB
SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")

#: Keys by which a file asks for a class or for code. We choose our classes ourselves.
CODE_KEYS = frozenset(
    {"auto_map", "custom_code", "custom_generate", "custom_pipelines", "trust_remote_code"}
)
#: Keys of quantised variants that say it otherwise than the ones read here.
QUANTIZATION_KEYS = frozenset({"quantization", "quantization_config", "compression_config"})

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist = 2, 3, 6
_short.maxstring = _short.maxother = 60


def shown(value: object) -> str:
    """`value` as an error message may print it: short, however large or deep it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return _short.repr(value)


def file_in(folder: Path, name: str) -> Path:
    """The regular file `name` of `folder`, with its links followed.

    Raises CheckpointError for a name with anything but letters, digits, dots, dashes and
    underscores, for a file that is not there, and for a link that leaves the folder. The one
    place a link may lead to is the Hugging Face cache's own: from `snapshots/<revision>/` to the
    `blobs/` beside it.
    """
    if not SAFE_NAME.fullmatch(name) or set(name) == {"."}:
        raise CheckpointError(f"{folder} names a file {shown(name)}: not a plain file name")
    try:
        home = Path(folder).resolve()
        path = (home / name).resolve()
        there = path.is_file()  # also keeps us from waiting on a pipe
    except (OSError, RuntimeError) as error:  # a link that leads back to itself
        raise CheckpointError(f"{Path(folder) / name} cannot be read: {error}") from error
    homes = {home}
    if home.parent.name == "snapshots":
        homes.add(home.parent.parent / "blobs")
    if path.parent not in homes:
        raise CheckpointError(
            f"{Path(folder) / name} is a link to {path}, which is outside the checkpoint's "
            f"folder. Copy the file itself into the folder."
        )
    if not there:
        raise CheckpointError(
            f"{folder} holds no {name}. Is it a DiffusionGemma checkpoint, completely downloaded? "
            f"One has config.json, generation_config.json, tokenizer.json and *.safetensors."
        )
    return path


def read_json_object(
    folder: Path, name: str, *, max_bytes: int = MAX_CONFIG_BYTES
) -> dict[str, Any]:
    """The JSON object in the file `name` of `folder`.

    Raises CheckpointError when there is no such file, see `file_in`, and ConfigError when it is
    larger than `max_bytes` or is not one sound JSON object.
    """
    path = Path(folder) / name
    try:
        with file_in(folder, name).open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > max_bytes:
        raise ConfigError(f"{path} is larger than {max_bytes} bytes: not a file of this kind")

    def refuse_constant(word: str) -> NoReturn:
        raise ConfigError(f"{path} holds {word}, which is no JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ConfigError(f"{path} says {shown(twice)} twice")
        return found

    try:
        value = json.loads(raw, parse_constant=refuse_constant, object_pairs_hook=unique)
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep to be a configuration") from None
    except ConfigError:
        raise
    except ValueError as error:  # bad JSON, bad UTF-8, a number of thousands of digits
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {shown(value)} where an object {{...}} belongs")
    return value


class Facts:
    """One JSON object on its way into a dataclass.

    `where` names the file, `prefix` the place in it; both appear in every error message. All
    methods raise ConfigError.
    """

    def __init__(self, values: object, where: str, prefix: str = "") -> None:
        self.where = where
        self.prefix = prefix
        if not isinstance(values, Mapping):
            place = prefix.rstrip(".") or "its content"
            raise ConfigError(f"{where}: {place} is {shown(values)}, not an object {{...}}")
        self._values = values
        self._read: set[object] = set()

    @property
    def whole(self) -> Mapping[str, Any]:
        """The object itself."""
        return self._values

    def has(self, key: str) -> bool:
        """Whether `key` is there at all."""
        return key in self._values

    def names(self) -> list[str]:
        """All keys, which must be text."""
        for key in self._values:
            if not isinstance(key, str):
                raise ConfigError(f"{self.where}: {self.prefix}{shown(key)} is no name")
        return list(self._values)

    def take(self, key: str) -> Any:
        """The value of `key`, which must be there."""
        if key not in self._values:
            raise ConfigError(
                f"{self.where} lacks {self.prefix + key!r}. No fact of a checkpoint is guessed: "
                f"take the file that was published with the weights."
            )
        self._read.add(key)
        return self._values[key]

    def integer(self, key: str) -> Any:
        """The value of `key`, a whole number; its range is the dataclass's to check."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(key, "a whole number")
        return value

    def number(self, key: str) -> float:
        """The value of `key`, a finite number, as float."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(key, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.wrong(key, "a finite number")
        return number

    def section(self, key: str) -> Facts:
        """The object under `key`."""
        return Facts(self.take(key), self.where, f"{self.prefix}{key}.")

    def pin(self, key: str, *allowed: object, required: bool = True) -> None:
        """Refuse any value of `key` but those `allowed`: others are not implemented."""
        if not required and not self.has(key):
            return
        value = self.take(key)
        if not any(type(value) is type(each) and value == each for each in allowed):
            self.wrong(key, " or ".join(shown(each) for each in allowed))

    def wrong(self, key: str, wanted: str) -> NoReturn:
        """Say that `key` should have been something else."""
        value = shown(self._values[key])
        raise ConfigError(f"{self.where}: {self.prefix}{key} is {value}, must be {wanted}")

    def finish(self, without_effect: Collection[str] = ()) -> None:
        """Refuse every key that nobody asked for and that is not known to have no effect."""
        for key in self._values:
            if key in self._read or key in without_effect:
                continue
            name = shown(f"{self.prefix}{key}") if isinstance(key, str) else shown(key)
            if key in CODE_KEYS:
                reason = "it would let the checkpoint choose code to run, which is never done"
            elif key in QUANTIZATION_KEYS:
                reason = (
                    "this is a quantised variant of a kind that is not read. Those of "
                    "`dgemma quantize`, compressed-tensors and modelopt are, and the bfloat16 "
                    "checkpoint google/diffusiongemma-26B-A4B-it"
                )
            else:
                reason = "it is unknown here, and ignoring it could change what the model computes"
            raise ConfigError(f"{self.where}: {name} is refused: {reason}")

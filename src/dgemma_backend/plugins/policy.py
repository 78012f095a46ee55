"""What the environment says about plugins.

DGEMMA_PLUGINS=a,b          only these (empty: none); unset: all that are installed
DGEMMA_DISABLE_PLUGINS=c    not these
DGEMMA_STRICT_PLUGINS=1     a broken plugin is an error; otherwise a warning names it
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dgemma_backend.errors import PluginError


@dataclass(frozen=True)
class Policy:
    """Which installed plugins may be loaded, and what a broken one is."""

    only: frozenset[str] | None = None
    never: frozenset[str] = frozenset()
    strict: bool = False

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "Policy":
        """Read the three variables. Raises PluginError for a value that means nothing."""
        only = env.get("DGEMMA_PLUGINS")
        strict = env.get("DGEMMA_STRICT_PLUGINS", "")
        if strict not in ("", "0", "1"):
            raise PluginError(f"DGEMMA_STRICT_PLUGINS={strict!r} must be 0 or 1")
        return cls(
            None if only is None else _names(only),
            _names(env.get("DGEMMA_DISABLE_PLUGINS", "")),
            strict == "1",
        )

    @property
    def named(self) -> dict[str, str]:
        """Every plugin the environment speaks of, with the variable that does."""
        return {
            **dict.fromkeys(self.only or (), "DGEMMA_PLUGINS"),
            **dict.fromkeys(self.never, "DGEMMA_DISABLE_PLUGINS"),
        }

    def allows(self, name: str) -> bool:
        """Whether the installed plugin `name` may be loaded."""
        return name not in self.never and (self.only is None or name in self.only)


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())

"""Whether what a framework adapter needs is installed."""

from importlib.metadata import PackageNotFoundError, version

from dgemma_backend.errors import MissingDependencyError
from dgemma_backend.hookspecs import ProviderRecord


def check_requirements(record: ProviderRecord) -> None:
    """Raise MissingDependencyError unless all that `record` requires is installed, in range."""
    from packaging.requirements import Requirement  # here alone: every command loads this module

    for text in record.requires:
        wanted = Requirement(text)
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            state = f"{wanted.name} is not installed"
        else:
            if wanted.specifier.contains(found, prereleases=True):
                continue
            state = f"{wanted.name} {found} is installed"
        target = f"dgemma-backend[{record.extra}]" if record.extra else text
        raise MissingDependencyError(
            f"the provider {record.name!r} needs {text}, and {state}: pip install '{target}'"
        )

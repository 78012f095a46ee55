"""Every exception this package raises on purpose.

    DgemmaError
    ├── ConfigError                 a checkpoint's config.json says something impossible
    ├── CheckpointError             a checkpoint's files are missing, damaged or foreign
    │   └── ModelNotFoundError      no such model: neither built in, nor a folder, nor reachable
    ├── SettingError                a request asks for a value out of range
    │   ├── UnknownSettingError     ... or for a setting that does not exist
    │   └── ConstraintError         ... or for a form that no answer can have, or too large a one
    │       └── UnsupportedSchemaError  ... or for one whose rules cannot be guaranteed
    ├── PromptError                 a conversation cannot be rendered
    │   ├── EmptyPromptError        ... there is nothing to answer
    │   ├── ContextLengthError      ... it does not fit the model's context
    │   └── ControlTokenError       ... untrusted text would have become a control token
    ├── PluginError                 a plugin is broken, blocked or clashes with another
    │   └── UnknownPluginError      nothing is registered under that name
    ├── GenerationError             a request failed while running
    │   ├── NonFiniteLogitsError    the model returned NaN or infinity
    │   ├── ResponseFormatError     answer after answer failed the check of its format
    │   ├── DeadlineExceededError   the request's timeout passed
    │   └── CancelledError          the request was cancelled
    ├── QueueFullError              too many requests are in line already
    ├── EngineClosedError           the engine has been closed
    └── MissingDependencyError      an optional package is not installed

Errors that a caller could also call a bad value or a failed lookup inherit the
built-in class too, so `except ValueError` keeps working.
"""


class DgemmaError(Exception):
    """Base of all errors of this package."""


class ConfigError(DgemmaError, ValueError):
    """A checkpoint's configuration is incomplete, unknown or absurd."""


class CheckpointError(DgemmaError):
    """A checkpoint's files are missing, damaged, unsafe or of another architecture."""


class ModelNotFoundError(CheckpointError, LookupError):
    """No model of that name is built in, on disk or reachable."""


class SettingError(DgemmaError, ValueError):
    """A generation setting is out of its range."""


class UnknownSettingError(SettingError):
    """A generation setting of that name does not exist."""


class ConstraintError(SettingError):
    """The wanted form of an answer is empty, malformed, or too large to be guaranteed."""


class UnsupportedSchemaError(ConstraintError):
    """A JSON schema uses a keyword that cannot be guaranteed; `pointer` says where it stands."""

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class PromptError(DgemmaError, ValueError):
    """A conversation cannot be turned into a prompt."""


class EmptyPromptError(PromptError):
    """The conversation holds nothing to answer."""


class ContextLengthError(PromptError):
    """Prompt and answer do not fit the model's context."""


class ControlTokenError(PromptError):
    """Untrusted text would have produced a control token."""


class PluginError(DgemmaError):
    """A plugin cannot be loaded, or two plugins claim the same name."""


class UnknownPluginError(PluginError, LookupError):
    """No plugin offers a part of that name."""


class GenerationError(DgemmaError):
    """A request failed while it was running."""


class NonFiniteLogitsError(GenerationError, ArithmeticError):
    """The model returned logits that are not finite."""


class ResponseFormatError(GenerationError, ValueError):
    """Answers failed what decoding cannot guarantee of their format."""


class DeadlineExceededError(GenerationError, TimeoutError):
    """The request's timeout passed before it was finished."""


class CancelledError(GenerationError):
    """The request was cancelled before it was finished."""


class QueueFullError(DgemmaError, RuntimeError):
    """So many requests are in line that another was refused; try again later."""


class EngineClosedError(DgemmaError, RuntimeError):
    """The engine was closed and serves no further request."""


class MissingDependencyError(DgemmaError, ImportError):
    """An optional package is needed and not installed."""

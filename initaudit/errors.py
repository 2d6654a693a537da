"""Every error that a user can meet: what failed with its value, what was expected, what to do next."""

from __future__ import annotations


class InitauditError(Exception):
    """Base of all errors that are the caller's to mend; the command prints the text and no traceback."""


class UsageError(InitauditError):
    """An argument, a setting or a code that makes no sense (exit code 4)."""


class AuditError(InitauditError):
    """A model could not be loaded or run (exit code 2); ``stage`` is load, input, forward or backward."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class UnknownActivationError(InitauditError, ValueError):
    """An activation that cannot be found, or is not elementwise."""


class UnknownLayerError(InitauditError, ValueError):
    """A layer whose fans are not defined."""

"""The loss that drives the backward pass, when the user gives one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from initaudit.errors import AuditError, UsageError
from initaudit.target.collecting import required_arguments
from initaudit.target.importing import DOTTED, import_dotted, import_file

Loss = Callable[[Any], Any]


def resolve_loss(loss: str | Loss | None, module: ModuleType | None = None) -> Loss | None:
    """The loss as a function of the model's output, or None for the seeded cotangent.

    First that exists: ``loss`` (a function, or ``module:function`` or ``losses.py::function`` as text), then
    ``initaudit_loss`` in ``module``. Raises :class:`UsageError` for malformed text and :class:`AuditError` (stage
    "load") for a loss that cannot be imported or cannot be called with the output alone.
    """
    if loss is None:
        value = vars(module).get("initaudit_loss") if module is not None else None
        return None if value is None else _checked(value, "initaudit_loss")
    if not isinstance(loss, str):
        return _checked(loss, "the loss")
    if "::" in loss and Path(loss.partition("::")[0]).is_file():
        path, *names = loss.split("::")
        owner: Any = import_file(Path(path), path)[0]
    elif DOTTED.fullmatch(loss):
        path, _, attribute = loss.partition(":")
        owner, names = import_dotted(path), attribute.split(".")
    else:
        raise UsageError(f"loss {loss!r} is malformed: expected module:function, e.g. losses:masked_mse")
    for name in names:
        if not hasattr(owner, name):
            raise AuditError("load", f"loss {loss}: {path} has no {name}")
        owner = getattr(owner, name)
    return _checked(owner, f"loss {loss}")


def _checked(loss: Any, shown: str) -> Loss:
    if not callable(loss):
        raise AuditError("load", f"{shown} is of type {type(loss).__name__}, expected a function of the model's output")
    needed = required_arguments(loss)
    if isinstance(loss, type) or len(needed) > 1:
        what = "is a class" if isinstance(loss, type) else f"needs {len(needed)} arguments ({', '.join(needed)})"
        raise AuditError(
            "load",
            f"{shown} {what}, expected a function of the model's output alone, e.g.\n"
            "    def initaudit_loss(output):\n        return output.square().mean()",
        )
    checked: Loss = loss
    return checked

"""Audit how a PyTorch model is initialized.

``import initaudit`` imports nothing else: each public name is loaded when it is first used, so that neither the
command line's start nor that of pytest waits for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initaudit.advice.apply import reinitialize_ as reinitialize_
    from initaudit.engine import audit as audit
    from initaudit.errors import AuditError as AuditError
    from initaudit.errors import InitauditError as InitauditError
    from initaudit.errors import UsageError as UsageError
    from initaudit.records import Finding as Finding
    from initaudit.records import Report as Report
    from initaudit.records import Severity as Severity
    from initaudit.testing import assert_initialized as assert_initialized
    from initaudit.theory.elementwise import gain as gain
    from initaudit.theory.fans import fan_in_and_fan_out as fan_in_and_fan_out

__version__ = "0.1.0"

_HOMES = {
    "audit": "initaudit.engine",
    "assert_initialized": "initaudit.testing",
    "reinitialize_": "initaudit.advice.apply",
    "gain": "initaudit.theory.elementwise",
    "fan_in_and_fan_out": "initaudit.theory.fans",
    "Report": "initaudit.records",
    "Finding": "initaudit.records",
    "Severity": "initaudit.records",
    "InitauditError": "initaudit.errors",
    "AuditError": "initaudit.errors",
    "UsageError": "initaudit.errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'initaudit' has no attribute {name!r}")
    value: Any = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Where in the user's own code an exception came from, and how to say it without a traceback."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

import torch

from initaudit.errors import AuditError

_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
_LIBRARY_ROOTS = tuple(
    os.path.realpath(root) + os.sep
    for root in (
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        Path(torch.__file__).parent,
        Path(__file__).parents[1],
    )
)


def is_library(filename: str) -> bool:
    """Whether a file belongs to Python, to an installed package or to initaudit, and so is not the user's."""
    if filename.startswith("<"):
        return True
    return not _PACKAGE_FOLDERS.isdisjoint(Path(filename).parts) or os.path.realpath(filename).startswith(
        _LIBRARY_ROOTS
    )


def shown_path(filename: str) -> str:
    """A path as a user would type it: relative when it lies below the current folder."""
    relative = (
        os.path.relpath(filename) if os.path.splitdrive(filename)[0] == os.path.splitdrive(os.getcwd())[0] else ""
    )
    return relative if relative and not relative.startswith(os.pardir) else filename


def exception_text(error: BaseException) -> str:
    """``"ValueError: too small"``; survives exceptions that cannot print themselves."""
    try:
        text = str(error).strip()
    except Exception:  # the user's __str__ may be as broken as the rest
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def user_location(error: BaseException) -> str | None:
    """``"model.py:12, in build: return Net(3)"`` for the innermost frame of the user's code, if there is one."""
    if isinstance(error, SyntaxError) and error.filename and not is_library(error.filename):
        source = f": {error.text.strip()}" if error.text else ""
        return f"{shown_path(error.filename)}:{error.lineno}{source}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not is_library(frame.filename):
            source = f": {frame.line}" if frame.line else ""
            return f"{shown_path(frame.filename)}:{frame.lineno}, in {frame.name}{source}"
    return None


def user_error(stage: str, summary: str, error: BaseException, advice: str = "") -> AuditError:
    """An :class:`AuditError` that says what failed, with which exception, where in the user's code, and what to do."""
    text = f"SystemExit({error.code!r})" if isinstance(error, SystemExit) else exception_text(error)
    if isinstance(error, SyntaxError):
        text = f"{type(error).__name__}: {error.msg}"
    lines = [f"{summary}: {text}"]
    if location := user_location(error):
        lines.append(f"  at {location}")
    if advice:
        lines.append(f"  {advice}")
    return AuditError(stage, "\n".join(lines))

"""What standard error shows of a run: the model and stage that is running, and what the user's code printed."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.status import Status


class Progress(AbstractContextManager["Progress"]):
    """A line that follows the run where standard error is a terminal; nothing where it is not."""

    def __init__(self, *, no_color: bool, quiet: int) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, no_color=no_color or None, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        if sys.stderr.isatty() and not quiet:
            self._status = self._console.status("")
        self._line: AbstractContextManager[Any] = self._status or nullcontext()

    def __enter__(self) -> Progress:
        self._line.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._line.__exit__(kind, error, tb)

    def show(self, text: str) -> None:
        """Say what is running now."""
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(text))

    def printed(self, name: str, text: str) -> None:
        """Show what the code of ``name`` has printed."""
        self._console.rule(f"printed by {name}", align="left", style="dim", characters="-")
        self._console.print(text.rstrip("\n"), markup=False)

    def say(self, text: str) -> None:
        """A remark on the run that is no part of the report."""
        self._console.print(text, markup=False)

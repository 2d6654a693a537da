"""The help page of the default command: options in sections, then commands, examples and exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

OTHER = "Other"  # where click's own --help goes
Rows = Sequence[tuple[str, str]]


class SectionOption(click.Option):
    """An option that is listed under ``section`` of the help page."""

    def __init__(self, *args: Any, section: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help page has its options in sections, between ``before`` and ``after`` tables."""

    def __init__(self, *args: Any, before: dict[str, Rows], after: dict[str, Rows], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.before = before
        self.after = after

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As the default command it goes by the name of its group."""
        return super().make_context(parent.info_name if parent else info_name, args, None, **extra)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Targets first, as in every example."""
        formatter.write_usage(ctx.command_path, "TARGET... [OPTIONS]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every section, in the order in which its first option is declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", OTHER), []).append(record)
        for title, rows in {**self.before, **sections, **self.after}.items():
            with formatter.section(title):
                formatter.write_dl(rows)

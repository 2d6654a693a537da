"""The command ``initaudit``. The only room that prints; its process never imports torch to audit.

Each command imports what it needs when it runs, so that the help of all of them waits for click alone.
"""

from __future__ import annotations

from typing import Any

import click

from initaudit.cli.fix import fix_command
from initaudit.cli.gain import gain_command
from initaudit.cli.group import DefaultGroup
from initaudit.cli.options import audit_options
from initaudit.cli.rule import rule_command


@audit_options
@click.pass_context
def audit_command(ctx: click.Context, /, config: str | None, keyword: str | None, collect_only: bool, **_: Any) -> int:
    """Audit the targets; the other options are read from ``ctx``, which also tells those given from the defaults."""
    from initaudit.cli.audit import audit

    return audit(ctx, config=config, keyword=keyword, collect_only=collect_only)


main = DefaultGroup(name="initaudit", default=audit_command, commands=[fix_command, rule_command, gain_command])

__all__ = ["main"]

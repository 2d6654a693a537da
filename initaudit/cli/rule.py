"""``initaudit rule``: the list of rules, or one rule's page."""

from __future__ import annotations

import sys

import click


@click.command("rule")
@click.argument("code", required=False)
def rule_command(code: str | None) -> None:
    """List the rules, or show one rule's page.

    CODE is a rule's code or name: what it measures, why that matters, an example that fires, the remedy, and where
    its limit comes from. Written as Markdown when the output is no terminal.

    \b
    Examples:
      initaudit rule
      initaudit rule IA101
      initaudit rule dead-units > dead-units.md
    """
    from rich.console import Console

    from initaudit.rules import RULES, find_rule, rule_page

    console = Console()
    if code is None:
        from rich.table import Table
        from rich.text import Text

        table = Table("code", "name", "severity", "what it finds", box=None, pad_edge=False, header_style="bold")
        for rule in sorted(RULES, key=lambda rule: rule.code):
            summary = (sys.modules[rule.check.__module__].__doc__ or "").strip().partition("\n")[0]
            table.add_row(rule.code, rule.name, rule.severity.value, Text(summary))
        console.print(table)
        return
    page = rule_page(find_rule(code))
    if console.is_terminal:
        from rich.markdown import Markdown

        console.print(Markdown(page))
    else:
        click.echo(page)

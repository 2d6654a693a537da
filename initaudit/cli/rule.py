"""``initaudit rule``: the list of rules, or one rule's page."""

from __future__ import annotations

import os
import re
import sys
import textwrap

import click

import initaudit

_RULE = re.compile(r'^RULE = Rule\(\s*code="(\w+)",\s*name="([\w-]+)",\s*severity=Severity\.(\w+),', re.MULTILINE)
_TITLES = ("code", "name", "severity", "what it finds")
Row = tuple[str, str, str, str]


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
    if code is None:
        _write_table(_listing())
        return
    from initaudit.rules import find_rule, rule_page

    page = rule_page(find_rule(code))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(page))
    else:
        click.echo(page)


def _listing() -> list[Row]:
    """Code, name, worst severity and summary of every rule, by code.

    Read from the text of their files: to import them all takes longer than everything else that this command does.
    """
    rows: list[Row] = []
    for entry in os.scandir(os.path.join(os.path.dirname(initaudit.__file__), "rules")):
        if not entry.name.endswith(".py"):
            continue
        with open(entry.path, encoding="utf-8") as file:
            text = file.read()
        if found := _RULE.search(text):
            code, name, severity = found.groups()
            rows.append((code, name, severity.lower(), text.removeprefix('"""').partition("\n")[0].removesuffix('"""')))
    return sorted(rows)


def _write_table(rows: list[Row]) -> None:
    """Columns as wide as their widest cell, the last one wrapped at the edge of the terminal."""
    from shutil import get_terminal_size  # not above: it imports three compressors

    *widths, _ = (max(map(len, column)) for column in zip(_TITLES, *rows, strict=True))
    indent = " " * sum(width + 2 for width in widths)
    room = max(get_terminal_size().columns - len(indent), 20)
    for *cells, last in (_TITLES, *rows):
        line = "".join(f"{cell:{width + 2}}" for cell, width in zip(cells, widths, strict=True))
        click.secho(line + f"\n{indent}".join(textwrap.wrap(last, room)), bold=last is _TITLES[-1])

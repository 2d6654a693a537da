"""A report as HTML: what the terminal shows, for notebooks and for a file to send."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from initaudit.records import Report

_WIDTH = 140
_BLOCK = '<pre style="font-family:Menlo,Consolas,monospace;line-height:1.25;overflow-x:auto">{code}</pre>'


def render_html(report: Report, *, page: bool = True) -> str:
    """``report`` as a whole HTML page, or as a block to stand in one."""
    console = Console(record=True, width=_WIDTH, file=StringIO(), force_jupyter=False)
    console.print(report)
    if page:
        return console.export_html(inline_styles=True)
    return console.export_html(inline_styles=True, code_format=_BLOCK)

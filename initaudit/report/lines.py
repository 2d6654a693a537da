"""Prose and lists of facts as lines that fit a width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.text import Text

from initaudit.report.glyphs import Glyphs


def paragraph(
    text: str, glyphs: Glyphs, *, width: int, indent: int = 0, label: str = "", style: str = ""
) -> Iterator[Text]:
    """``text`` wrapped to ``width`` below its ``label``, line by line of the original; the label in bold."""
    hang = " " * (indent + len(label))
    first = " " * indent + label
    for line in glyphs.clean(text).split("\n") or [""]:
        for wrapped in textwrap.wrap(line, max(width, 20), initial_indent=first, subsequent_indent=hang) or [""]:
            rendered = Text(wrapped, style, no_wrap=True, overflow="ignore")
            if label and wrapped.startswith(first) and first != hang:
                rendered.stylize("bold", indent, indent + len(label))
            yield rendered
            first = hang


def packed(facts: Iterable[str], glyphs: Glyphs, width: int) -> Iterator[str]:
    """As many facts to a line as fit; a line only ever breaks between two of them."""
    line = ""
    for fact in filter(None, facts):
        joined = f"{line}{glyphs.separator}{fact}" if line else fact
        if line and cell_len(joined) > width:
            yield line
            joined = fact
        line = joined
    if line:
        yield line

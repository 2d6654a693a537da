"""The characters a rendering is made of, and their ASCII stand-ins for consoles that cannot encode them."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from initaudit.report.sparkline import ASCII_BLOCKS, BLOCKS


@dataclass(frozen=True, slots=True)
class Glyphs:
    blocks: str
    healthy: str
    unjudged: str
    follows: str
    ellipsis: str
    times: str
    separator: str
    rule: str
    plain: bool

    def clean(self, text: str) -> str:
        """``text`` with what the console cannot show, and control characters, replaced."""
        if self.plain:
            text = text.encode("ascii", "replace").decode()
        return "".join(c if c.isprintable() or c == "\n" else " " for c in text.replace("\r\n", "\n"))

    def middle(self, text: str, width: int, head: float = 1 / 3) -> str:
        """``text`` in at most ``width`` cells, its middle left out: both ends of a dotted path tell layers apart.

        ``head`` is the share of what is kept that stands before the ellipsis.
        """
        text = self.clean(text)
        if cell_len(text) <= width:
            return text
        kept = max(width - cell_len(self.ellipsis), 0)
        before = int(kept * head)
        tail = kept - before
        end = set_cell_size(text[::-1], tail)[::-1] if tail else ""
        return set_cell_size(set_cell_size(text, before) + self.ellipsis + end, width)


UNICODE = Glyphs(BLOCKS, "✓", "·", "↳", "…", "\u00d7", " · ", "─", plain=False)
ASCII = Glyphs(ASCII_BLOCKS, "ok", ".", ">", "...", "x", " | ", "-", plain=True)

"""Figures of audits: what Glorot and Bengio (2010) plotted of their networks, of any model, from its report alone.

``figure`` draws up to four panels for each audit, one column each when there are several. They share their axes, so
that columns compare: a model before and after a fix, or with two initializations. matplotlib is needed (the extra
``figures``) and imported when the first figure is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from initaudit.errors import UsageError
from initaudit.records import Report
from initaudit.report.glyphs import UNICODE
from initaudit.report.plots_canvas import WIDTH, blank, save, style
from initaudit.report.plots_chain import Chain, chain_of
from initaudit.report.plots_depth import draw_depth
from initaudit.report.plots_histograms import draw_histograms, name_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PANELS", "figure", "save"]

HISTOGRAMS = ("activations", "gradients")
PANELS = (*HISTOGRAMS, "forward", "backward")
_COLUMN, _ROW = 2.5, 2.3  # inches of one panel
_TITLES = {True: 84, False: 28}  # characters of a title: of the whole figure, of a column


def figure(reports: Sequence[Report], *, titles: Sequence[str] | None = None, panels: Sequence[str] = PANELS) -> Figure:
    """The figure of one audit, or of several side by side.

    Panels are ``"activations"`` and ``"gradients"``, normalized histograms layer by layer, as in figures 6 and 7 of
    Glorot and Bengio (2010); ``"forward"`` and ``"backward"``, the rms of pre-activations and of their gradients
    along the depth. The layer next to the loss is not among the gradients: it carries the loss's own. Reports in which
    nothing ran are left out. ``titles`` stand above the columns, the targets unless given.

    Raises:
        UsageError: matplotlib is missing, a panel is unknown, or nothing ran in any of the reports.
    """
    if unknown := [panel for panel in panels if panel not in PANELS]:
        raise UsageError(f"unknown panel {unknown[0]!r}; expected some of {', '.join(PANELS)}")
    if not panels:
        raise UsageError(f"no panel to draw; expected some of {', '.join(PANELS)}")
    titles = [report.target for report in reports] if titles is None else titles
    chains = [chain_of(report, title) for report, title in zip(reports, titles, strict=True)]
    chains = [chain for chain in chains if chain.passages]
    if not chains:
        raise UsageError("there is nothing to draw: no layer of a model was run and measured")
    with style():
        drawing, grid = _arranged(chains, panels)
        for panel, axes in zip(panels, grid, strict=True):
            if panel in HISTOGRAMS:
                draw_histograms(axes, chains, panel)
            else:
                draw_depth(axes, chains, panel)
        if set(panels) & set(HISTOGRAMS):
            name_layers(drawing, chains)
    return drawing


def _arranged(chains: Sequence[Chain], panels: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure and, for each panel, its axes: one audit takes two columns, several one each."""
    single = len(chains) == 1
    columns = min(len(panels), 2) if single else len(chains)
    rows = -(-len(panels) // 2) if single else len(panels)
    drawing = blank(max(WIDTH, _COLUMN * columns), 0.8 + _ROW * rows)
    grid = drawing.subplots(
        rows, columns, squeeze=False, sharex=False if single else "row", sharey=False if single else "row"
    )
    shown = [UNICODE.middle(chain.title, _TITLES[single]) for chain in chains]
    if single:
        drawing.suptitle(shown[0], fontsize="medium", fontweight="bold")
        cells = [grid[place % rows][place // rows] for place in range(rows * columns)]
        for spare in cells[len(panels) :]:
            spare.remove()
        return drawing, [[axes] for axes in cells[: len(panels)]]
    for axes, title in zip(grid[0], shown, strict=True):
        axes.set_title(title, fontweight="bold")
    return drawing, [list(row) for row in grid]

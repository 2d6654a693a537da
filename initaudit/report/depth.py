"""Renders what theory predicts through a stack of layers with one activation, for ``initaudit gain --depth``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from initaudit.theory.depth import Profile, Scheme
    from initaudit.theory.gains import GainAnalysis

_BAND = 10.0  # a gradient's rms is shown red when it changes by more than this factor over the depth
_COLUMNS = 4  # with two figures each they fit in 80 columns


def depth_renderable(
    analysis: GainAnalysis, rows: Sequence[tuple[Scheme, Profile]], *, depth: int, width: int
) -> RenderableType:
    """One scheme per line: its gain, the rms of the pre-activations at some depths, and what becomes of a gradient."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("weights drawn with", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    layers = shown_layers(depth)
    for i, layer in enumerate(layers):
        table.add_column(f"layer {layer}" if i == 0 else str(layer), justify="right", no_wrap=True)
    table.add_column("gradient", justify="right", no_wrap=True)
    for scheme, profile in rows:
        cells = [_figure(profile.rms[layer - 1]) for layer in layers]
        gradient = profile.gradient[0]
        kept = 1 / _BAND <= gradient <= _BAND
        table.add_row(
            scheme.label,
            f"{scheme.std * math.sqrt(width):.4g}",
            *cells,
            Text(_figure(gradient), style="green" if kept else "red"),
        )
    title = Text.assemble(
        (f"{depth} layers of {width} units with {analysis.name}", "bold"),
        ", inputs of rms 1: rms of the pre-activations",
    )
    scatter = math.sqrt(depth * analysis.kappa / width) if math.isfinite(analysis.kappa) else math.inf
    note = (
        "gain: std of the weights times sqrt(fan_in). gradient: its rms at the first layer over that at the last. "
        "'first 1': gain 1 in the first layer, whose input has passed no activation. This is theory, for wide layers: "
        f"of one draw the log of the mean square varies by about {scatter:.2g}"
    )
    if (analysis.fixed_point.slope or 0) > 1 + 1e-3:
        note += ", and such a deviation grows from layer to layer, as the fixed point is unstable"
    return Group(title, table, Text(), Text(note + ".", style="dim"))


def shown_layers(depth: int) -> list[int]:
    """The first layer, the last, and between them the largest of 2, 5, 10, 20, 50, ..."""
    series = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    between = [layer for layer in series if 1 < layer < depth]
    return [1, *between[-(_COLUMNS - 2) :], *([depth] if depth > 1 else [])]


def _figure(value: float) -> str:
    return f"{value:.2g}"

"""Histograms of all layers in one panel, coloured by depth: figures 6 and 7 of Glorot and Bengio (2010)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from initaudit.records import Stats
from initaudit.report.figures import percent
from initaudit.report.plots_canvas import GREY, SMALL
from initaudit.report.plots_chain import Chain, Passage
from initaudit.report.sparkline import CLIP, axis_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from initaudit.theory.quadrature import Array

MOST_LINES = 24  # layers drawn of a deep network; more lie on top of each other
MOST_NAMES = 6  # layers named in a legend
WIDE = 30.0  # largest rms over smallest, from which a linear axis makes needles of the smallest
_PALEST = 0.9  # of viridis: yellow does not show on white
_FEW, _FINE = 60, 24  # values in a bin, below which neighbours are joined; bins in use, above which they may be
_WORTH_TELLING = 0.02
_ROOM = 100  # characters in a row of the legend


@dataclass(frozen=True, slots=True)
class Curve:
    """The density of one layer's values over equal bins with these ``edges``, symmetric about 0.

    What is exactly zero or not finite is left out, so the density integrates to what is left; ``zeros`` is the share of
    the former. ``colour`` goes from 0 at the first layer to 1 at the last.
    """

    colour: float
    edges: Array
    density: Array
    zeros: float

    def beyond(self, limit: float) -> float:
        """The share that lies outside ``[-limit, limit]``."""
        middles = np.abs(self.edges[:-1] + self.edges[1:]) / 2
        return float(self.density[middles > limit].sum() * (self.edges[1] - self.edges[0]))

    def by_magnitude(self) -> tuple[Array, Array]:
        """``|x|`` and the density of ``log10 |x|`` there, which is ``ln(10) |x|`` times that of ``|x|``.

        Below the first bin the density of ``|x|`` is taken as constant, as within each bin.
        """
        half = len(self.density) // 2
        folded = self.density[half:] + self.density[:half][::-1]
        width = self.edges[1] - self.edges[0]
        below = 2.0 ** np.arange(-6, -1)
        places = np.concatenate([below, np.arange(half) + 0.5]) * width
        heights = np.concatenate([np.full(len(below), folded[0]), folded])
        return places, math.log(10) * places * heights


def curve_of(stats: Stats, colour: float = 0.0) -> Curve | None:
    """The curve of a tensor's histogram; ``None`` where there is none, or nothing in it has a place on an axis.

    What is exactly zero is taken out of the bin that it is in: a ReLU's half would make a spike whose height says how
    wide a bin is and nothing else.
    """
    histogram = stats.histogram
    if histogram is None or not 0 < histogram.limit < math.inf or not sum(histogram.counts):
        return None
    counts = np.asarray(histogram.counts, dtype=np.float64)
    bins, total = len(counts), counts.sum()
    left_out = stats.zero_fraction + (stats.nonfinite / stats.count if stats.count else 0.0)
    counts[bins // 2] = max(0.0, counts[bins // 2] - left_out * total)
    counts = _joined(counts)
    edges = np.linspace(-histogram.limit, histogram.limit, len(counts) + 1)
    return Curve(colour, edges, counts / total / (edges[1] - edges[0]), stats.zero_fraction)


def _joined(counts: Array) -> Array:
    """Pairs of bins made one, as long as so few values lie in each that what is seen is chance, and bins are many.

    How many bins are in use is the inverse of the sum of squared shares.
    """
    while len(counts) % 4 == 0 and counts.any():
        used = counts.sum() ** 2 / (counts**2).sum()
        if used < _FINE or counts.sum() > _FEW * used:
            break
        counts = counts[::2] + counts[1::2]
    return counts


def thinned(count: int, most: int) -> list[int]:
    """At most ``most`` of ``range(count)``, evenly spaced, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))}) if count else []


def draw_histograms(axes: Sequence[Axes], chains: Sequence[Chain], panel: str) -> None:
    """Draw the panel ``"activations"`` or ``"gradients"`` of each chain on axes that are the same for all.

    Each curve is drawn in units of its highest point. Where sizes differ by more than :data:`WIDE`, what is drawn is
    the distribution of magnitudes on a logarithmic axis: a layer at which all values are halved is the same curve,
    moved to the left.
    """
    layers = [_layers(chain, panel) for chain in chains]
    sizes = [[stats.rms for _, stats in one if 0 < stats.rms < math.inf] for one in layers]
    every = [rms for column in sizes for rms in column]
    logarithmic = bool(every) and max(every) > WIDE * min(every)
    reach = max((max(-stats.min, stats.max) for one in layers for _, stats in one), default=math.inf)
    limit = _shared_limit(sizes if panel == "activations" else [column[::-1] for column in sizes])
    limit = min(limit, 1.05 * reach) if reach > 0 else limit
    ends = (min(every) / 50, max(every) * 6) if logarithmic else (-limit, limit)
    if not logarithmic and all(stats.min >= 0 for one in layers for _, stats in one):
        ends = (-limit / 20, limit)
    for ax, chain, found in zip(axes, chains, layers, strict=True):
        curves = [curve_of(stats, chain.depth_of(passage)) for passage, stats in found]
        drawn = [curve for curve in curves if curve is not None]
        for curve in drawn:
            _draw(ax, curve, logarithmic=logarithmic)
        _lay_out(ax, panel, ends, logarithmic)
        _tell_what_is_missing(ax, drawn, math.inf if logarithmic else limit)
        if not any(curve.density.any() for curve in drawn):
            ax.text(0.5, 0.5, "nothing but zeros" if drawn else f"no {panel}", transform=ax.transAxes, ha="center")
    axes[0].set_ylabel("density (peak = 1)")


def name_layers(drawing: Figure, chains: Sequence[Chain]) -> None:
    """Below the panels, which colour is which layer: a few of many, by name if all columns have the same layers."""
    from matplotlib.lines import Line2D

    names = [[passage.name for passage in chain.read] for chain in chains]
    if all(other == names[0] for other in names):
        shown = [chains[0].read[place] for place in thinned(len(names[0]), MOST_NAMES)]
        labels = {f"{passage.number}: {passage.name}": chains[0].depth_of(passage) for passage in shown}
        title = "layer" if len(names[0]) <= MOST_LINES else f"layer ({MOST_LINES} of {len(names[0]):,} drawn)"
    else:
        labels = {"first layer": 0.0, "a quarter": 0.25, "half-way": 0.5, "three quarters": 0.75, "last layer": 1.0}
        title = "depth"
    handles = [Line2D([], [], color=_shade(colour), linewidth=2) for colour in labels.values()]
    rows = -(-len(labels) // max(1, int(_ROOM / max(map(len, labels)))))
    drawing.legend(handles, list(labels), loc="outside lower center", ncols=-(-len(labels) // rows), title=title,
                   title_fontsize=SMALL)  # fmt: skip


def _layers(chain: Chain, panel: str) -> list[tuple[Passage, Stats]]:
    """The layers to draw, in order, and the statistics of each."""
    passages = chain.read if panel == "activations" else chain.carried
    chosen = (passages[place] for place in thinned(len(passages), MOST_LINES))
    every = ((passage, passage.after if panel == "activations" else passage.gradient) for passage in chosen)
    return [(passage, stats) for passage, stats in every if stats is not None]


def _shared_limit(sizes: Sequence[Sequence[float]]) -> float:
    """One axis for all columns: the widest, but not so wide that the narrowest is a needle."""
    limits = [axis_limit(column) for column in sizes if column]
    return min(max(limits), CLIP * min(limits)) if limits else 1.0


def _draw(ax: Axes, curve: Curve, *, logarithmic: bool) -> None:
    if not (peak := curve.density.max()) > 0:
        return
    if logarithmic:
        places, heights = curve.by_magnitude()
        ax.plot(places, heights / heights.max(), color=_shade(curve.colour))
    else:
        ax.stairs(curve.density / peak, curve.edges, baseline=None, color=_shade(curve.colour), linewidth=1.2)


def _lay_out(ax: Axes, panel: str, limits: tuple[float, float], logarithmic: bool) -> None:
    word = {"activations": "activation", "gradients": "gradient"}[panel]
    if logarithmic:
        ax.set_xscale("log")
    ax.set_xlim(*limits)
    ax.set_ylim(0, 1.2)  # the top is for words
    ax.set_yticks([0, 0.5, 1])
    ax.set_xlabel(f"|{word}|" if logarithmic else word)


def _shade(colour: float) -> tuple[float, ...]:
    import matplotlib

    return tuple(matplotlib.colormaps["viridis"](_PALEST * colour))


def _tell_what_is_missing(ax: Axes, curves: Sequence[Curve], limit: float) -> None:
    """Say how much is exactly zero, which has no density, and how much lies beyond the axis."""
    told = []
    zeros = [curve.zeros for curve in curves]
    if max(zeros, default=0.0) > _WORTH_TELLING:
        low, high = percent(min(zeros)), percent(max(zeros))
        told.append(f"exactly 0: {low}" if low == high else f"exactly 0: {low} to {high}")
    if (beyond := max((curve.beyond(limit) for curve in curves), default=0.0)) > _WORTH_TELLING:
        told.append(f"beyond the axis: up to {percent(beyond)}")
    ax.text(0.02, 0.98, "\n".join(told), transform=ax.transAxes, va="top", fontsize=SMALL, color=GREY)

"""The figure of ``initaudit gain``: an activation, its length map with cobwebs, and what happens to gradients.

The length map takes the mean square of one layer's pre-activations to that of the next (Poole et al. 2016). Where it
crosses the diagonal the signal keeps its size; a staircase between the two shows whether depth leads there or away.
``chi_1`` is the factor per layer of a gradient's mean square (Schoenholz et al. 2017).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from initaudit.report.figures import number
from initaudit.report.plots_canvas import BLUE, GREEN, GREY, ORANGE, WIDTH, blank, style
from initaudit.theory.gains import Stability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from initaudit.theory.curves import Curves
    from initaudit.theory.gains import FixedPoint, GainAnalysis
    from initaudit.theory.quadrature import Array

STARTS = (4.0, 0.25)  # of the staircases, as factors of the fixed point
STEPS = 12  # layers of a staircase
_SAME = 1e-3  # relative, to which torch's gain is the same


def gain_figure(analysis: GainAnalysis, curves: Curves) -> Figure:
    """Three panels: the activation; the length map with its forward gain, and torch's where it differs; ``chi_1``.

    Raises:
        UsageError: matplotlib is missing.
    """
    gains = [("forward gain", analysis.fixed_point, BLUE)]
    torch_point = analysis.torch_fixed_point
    if torch_point is not None and abs(torch_point.gain / analysis.gain - 1) > _SAME:
        gains.append(("torch's gain", torch_point, ORANGE))
    gains = [entry for entry in gains if math.isfinite(entry[1].gain)]
    with style():
        drawing = blank(WIDTH, 2.9)
        first, second, third = drawing.subplots(1, 3)
        drawing.suptitle(analysis.name, fontsize="medium", fontweight="bold")
        _draw_function(first, analysis, curves)
        _draw_length_map(second, curves, gains)
        _draw_chi1(third, curves, gains)
    return drawing


def _draw_function(ax: Axes, analysis: GainAnalysis, curves: Curves) -> None:
    ax.fill_between(curves.x, np.exp(-(curves.x**2) / 2), color="0.88", linewidth=0, label="N(0, 1)")
    ax.plot(curves.x, curves.phi, color=BLUE, label="φ")
    ax.plot(curves.x, curves.derivative, color=GREEN, linestyle="--", label="φ'")
    ax.axhline(0, color=GREY, linewidth=0.5)
    ax.set_xlim(curves.x[0], curves.x[-1])
    ax.set_xlabel("x" if not analysis.gate else "b, in a · φ(b)")
    ax.legend(loc="upper left")


def _draw_length_map(ax: Axes, curves: Curves, gains: list[tuple[str, FixedPoint, str]]) -> None:
    low, high = curves.q[0], curves.q[-1]
    ax.plot([low, high], [low, high], color=GREY, linewidth=0.7, linestyle=":")
    for label, point, colour in gains:
        image = point.gain**2 * curves.second_moment
        ax.plot(curves.q, image, color=colour, label=f"{label} {number(point.gain)}")
        if point.q is not None:
            word = f"{point.stability.value}, slope {number(point.slope)}"
            ax.plot([point.q], [point.q], "o", color=colour, markersize=5, fillstyle=_fill(point), label=word)
    if gains and (settles := gains[0][1].q) is not None:
        for factor in STARTS:
            ax.plot(*staircase(curves, gains[0][1].gain, factor * settles), color="black", linewidth=0.7)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    ax.set_xlabel("mean square, this layer")
    ax.set_ylabel("next layer", labelpad=2)
    if gains:
        ax.legend(loc="upper left", borderaxespad=0.1)


def staircase(curves: Curves, gain: float, start: float, steps: int = STEPS) -> tuple[Array, Array]:
    """Corners ``(2 steps + 1,)`` of the cobweb: up to the map, across to the diagonal, layer by layer."""
    log_q, log_image = np.log(curves.q), np.log(np.maximum(gain**2 * curves.second_moment, 1e-300))
    corners = [(start, start)]
    for _ in range(steps):
        here = corners[-1][1]
        following = float(np.exp(np.interp(math.log(here), log_q, log_image)))
        corners += [(here, following), (following, following)]
        if not curves.q[0] < following < curves.q[-1]:
            break
    across, up = zip(*corners, strict=True)
    return np.array(across), np.array(up)


def _fill(point: FixedPoint) -> str:
    """A full dot where depth leads to the fixed point, a hollow one where it leads away."""
    return "none" if point.stability is Stability.UNSTABLE else "full"


def _draw_chi1(ax: Axes, curves: Curves, gains: list[tuple[str, FixedPoint, str]]) -> None:
    ax.axhline(1, color=GREY, linewidth=0.7, linestyle=":")
    tops = [2.0]
    for _, point, colour in gains:
        chi1 = point.gain**2 * curves.derivative_second_moment
        ax.plot(curves.q, chi1, color=colour)
        if point.q is not None and point.chi1 is not None:
            label = f"{number(point.chi1)} at q = {number(point.q)}"
            ax.plot([point.q], [point.chi1], "o", color=colour, markersize=5, fillstyle=_fill(point), label=label)
            tops.append(1.4 * point.chi1)
    ax.set_xscale("log")
    ax.set_xlim(curves.q[0], curves.q[-1])
    ax.set_ylim(0, max(tops))
    ax.set_xlabel("mean square q")
    ax.set_ylabel("χ₁: gradient, per layer")
    if len(tops) > 1:
        ax.legend(loc="upper right")

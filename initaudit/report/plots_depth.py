"""The rms of pre-activations, or of their gradients, layer by layer on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from initaudit.records import Stats
from initaudit.report.plots_canvas import BAND, BLUE, GREEN, GREY, ORANGE, SMALL
from initaudit.report.plots_chain import Chain, Passage
from initaudit.theory.trainability import FAILURE, TROUBLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Factors of the rms, and how strongly each is shaded; the limits are logs of mean squares.
_BANDS = ((math.exp(TROUBLE / 2), 0.16), (math.exp(FAILURE / 2), 0.13))
_MOST_MARKS = 40  # layers up to which each one is marked
_ROOM = 1.6  # factor left free above and below
_LEAST = 100.0  # largest over smallest of an axis, so that chance does not look like drift
_EDGE = 0.04  # height, as a share of the panel, at which what has no place on the axis is marked
_LEGEND = (0.5, 0.45)  # the share of the panel that a legend needs


@dataclass(frozen=True, slots=True)
class Series:
    """One line of the panel: a value for each number of layer, ``None`` where there is none."""

    label: str
    numbers: tuple[int, ...]
    values: tuple[float | None, ...]
    look: dict[str, Any]

    @property
    def on_axis(self) -> list[tuple[int, float]]:
        """Numbers and values where a logarithmic axis has a place for them."""
        pairs = zip(self.numbers, self.values, strict=True)
        return [(number, value) for number, value in pairs if value is not None and 0 < value < math.inf]


def draw_depth(axes: Sequence[Axes], chains: Sequence[Chain], panel: str) -> None:
    """Draw the panel ``"forward"`` or ``"backward"`` of each chain on axes that are the same for all.

    Shaded is what lies within :data:`~initaudit.theory.trainability.TROUBLE` and ``FAILURE`` of where the signal, or
    the gradient, enters; only in a model in which nothing sets the scale anew on the way.
    """
    from matplotlib.ticker import MaxNLocator

    lines = [_forward(chain) if panel == "forward" else _backward(chain) for chain in chains]
    references = [_reference(chain, panel) for chain in chains]
    values = [value for column in lines for series in column for _, value in series.on_axis]
    values += [edge for reference in references if reference for edge in _band(reference, _BANDS[0][0])]
    depth = max(len(chain.passages) for chain in chains)
    for ax, column, reference in zip(axes, lines, references, strict=True):
        ax.set_yscale("log")
        ax.set_xlim(0.5, depth + 0.5)
        ax.set_ylim(*_limits(values))
        if reference:
            for factor, alpha in _BANDS:
                ax.axhspan(*_band(reference, factor), color=BAND, alpha=alpha, linewidth=0, zorder=0)
        for series in column:
            _draw(ax, series, marks=depth <= _MOST_MARKS)
        ax.set_xlabel("layer")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _explain(axes[-1], lines[-1], panel, banded=any(references))
    axes[0].set_ylabel("rms of pre-activations" if panel == "forward" else "rms of gradients")


def _limits(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.1, 10.0
    low, high = min(values) / _ROOM, max(values) * _ROOM
    missing = max(1.0, math.sqrt(_LEAST / (high / low)))
    return low / missing, high * missing


def _band(reference: float, factor: float) -> tuple[float, float]:
    return reference / factor, reference * factor


def _forward(chain: Chain) -> list[Series]:
    passages = chain.passages
    spread = [None if passage.before is None else passage.before.sample_std for passage in passages]
    every = [
        _series("rms", passages, [_rms(p.before) for p in passages], color=BLUE, marker="o"),
        _series("across samples", passages, spread, color=GREEN, linestyle=(0, (4, 1.5))),
        _series("variance rule", passages, [p.predicted for p in passages],
                color="black", linestyle="none", marker="_", markersize=8, zorder=3),
    ]  # fmt: skip
    return [series for series in every if any(value is not None for value in series.values)]


def _backward(chain: Chain) -> list[Series]:
    rms = [_rms(passage.gradient) for passage in chain.carried]
    return [_series("rms", chain.carried, rms, color=ORANGE, marker="s")] if rms else []


def _series(label: str, passages: Sequence[Passage], values: Sequence[float | None], **look: Any) -> Series:
    return Series(label, tuple(passage.number for passage in passages), tuple(values), look)


def _rms(stats: Stats | None) -> float | None:
    """The rms; infinite where some value is not finite."""
    if stats is None:
        return None
    return math.inf if stats.nonfinite or math.isnan(stats.rms) else stats.rms


def _reference(chain: Chain, panel: str) -> float | None:
    """What the others are compared with: the signal of the first layer, the gradient of the last that carries one."""
    if not chain.plain or len(chain.passages) < 2:
        return None
    if panel == "forward":
        first = chain.passages[0].before
        value = None if first is None else first.sample_std or first.rms
    else:
        value = _rms(chain.carried[-1].gradient) if chain.carried else None
    return value if value is not None and 0 < value < math.inf else None


def _draw(ax: Axes, series: Series, *, marks: bool) -> None:
    """The line, and at the edges of the panel marks for zeros and for what is not finite."""
    look = series.look if marks or series.look.get("linestyle") == "none" else {**series.look, "marker": ""}
    places = dict(series.on_axis)
    ax.plot(series.numbers, [places.get(n, math.nan) for n in series.numbers], label=series.label, **look)
    for height, marker, value, word in ((_EDGE, "v", 0.0, "exactly 0"), (1 - _EDGE, "^", math.inf, "not finite")):
        found = [n for n, v in zip(series.numbers, series.values, strict=True) if v == value]
        if found:
            at, colour = ax.get_xaxis_transform(), series.look["color"]
            ax.plot(found, [height] * len(found), color=colour, marker=marker, linestyle="none", transform=at, zorder=4)
            left_half = found[0] < sum(ax.get_xlim()) / 2
            ax.annotate(word, (found[0], height), xycoords=at, xytext=(0, 7 if height < 0.5 else -7),
                        textcoords="offset points", ha="left" if left_half else "right", va="center",
                        fontsize=SMALL, color=GREY)  # fmt: skip


def _explain(ax: Axes, lines: Sequence[Series], panel: str, *, banded: bool) -> None:
    """The legend, in a corner without points, or below or above them all."""
    from matplotlib.patches import Patch

    handles: list[Any] = [handle for handle in ax.get_lines() if not str(handle.get_label()).startswith("_")]
    end = "first" if panel == "forward" else "last"
    shades = [sum(alpha for _, alpha in _BANDS[place:]) for place in range(len(_BANDS))]  # the inner lies on the outer
    for (factor, _), shade in zip(_BANDS if banded else (), shades if banded else (), strict=True):
        text = f"within {float(f'{factor:.2g}'):,.0f}×" + f" of the {end}" * (factor == _BANDS[0][0])
        handles.append(Patch(color=BAND, alpha=shade, linewidth=0, label=text))
    if not handles:
        return
    corner, taken = _free_corner(ax, lines)
    if taken:
        low, high = ax.get_ylim()
        room = (high / low) ** (_LEGEND[1] / (1 - _LEGEND[1]))
        zeros = any(value == 0 for series in lines for value in series.values)  # marked at the lower edge
        corner = "upper left" if zeros else "lower left"
        ax.set_ylim((low, high * room) if zeros else (low / room, high))
    ax.legend(handles=handles, loc=corner)


def _free_corner(ax: Axes, lines: Sequence[Series]) -> tuple[str, int]:
    """The corner with the fewest points where a legend would be, and how many these are."""
    (left, right), (low, high) = ax.get_xlim(), map(math.log, ax.get_ylim())
    taken = dict.fromkeys(("lower left", "upper left", "lower right", "upper right"), 0)
    places = ((n, v) for series in lines for n, v in zip(series.numbers, series.values, strict=True) if v is not None)
    for number, value in places:
        across = (number - left) / (right - left)
        up = (math.log(value) - low) / (high - low) if 0 < value < math.inf else float(value > 0)
        for corner in taken:
            beside = across < _LEGEND[0] if "left" in corner else across > 1 - _LEGEND[0]
            within = up < _LEGEND[1] if "lower" in corner else up > 1 - _LEGEND[1]
            taken[corner] += beside and within
    return min(taken.items(), key=lambda item: item[1])

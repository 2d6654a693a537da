"""Renders the gains of activations for ``initaudit gain``: one in full, or the table of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from initaudit.theory.gains import FixedPoint, Stability

if TYPE_CHECKING:
    from rich.console import RenderableType

    from initaudit.theory.gains import GainAnalysis

_SAME_GAIN = 1e-3  # relative: published Monte Carlo gains are no better
_EVEN = 1e-3  # |chi_1 - 1| below which gradients keep their size
_STYLES = {
    Stability.STABLE: "green",
    Stability.NEUTRAL: "green",
    Stability.UNSTABLE: "yellow",
    Stability.COLLAPSES: "red",
    Stability.DIVERGES: "red",
}
# Where torch's number is no gain by either formula: what it was chosen for.
_MEANT = {
    "tanh": "torch's 5/3 was found by experience: the signal settles a little above 1, and gradients grow faster than "
    "with either gain above. Take the forward gain to keep the signal, the backward gain where the network is deep.",
    "selu": "torch's 3/4 was found by experience: it keeps the gradient, at a smaller signal. A self-normalizing "
    'network (Klambauer et al. 2017) wants gain 1, which torch calls nonlinearity="linear".',
    "sigmoid": "torch's 1 takes the sigmoid for linear and corrects for nothing. No gain makes a deep stack of "
    "sigmoids trainable.",
}


def gain_renderable(analysis: GainAnalysis) -> RenderableType:
    """One activation: gains, torch's gain beside them, fixed points, what they mean for depth, the lines to use."""
    halves = ", both halves" if analysis.gate else ""
    facts = {
        "forward gain": f"{_number(analysis.gain)}   1/sqrt(E[phi(z)^2]), z ~ N(0, 1): keeps the signal",
        "backward gain": f"{_number(analysis.backward_gain)}   1/sqrt(E[phi'(z)^2]){halves}: keeps the gradient",
        "variance gain": f"{_number(analysis.variance_gain)}   1/sqrt(Var[phi(z)]): for standardized weights alone",
        "torch's gain": _torch_text(analysis),
        "mean of phi": _number(analysis.mean),
        "kappa": f"{analysis.kappa:.4g}   over n units the mean square varies by sqrt(kappa/n)",
    }
    grid = Table.grid(padding=(0, 2))
    for label, fact in facts.items():
        grid.add_row(Text(label, style="bold"), Text(fact))
    title = Text(analysis.name, style="bold cyan")
    if analysis.gate:
        title.append("   a * phi(b) over two independent halves", style="not bold default")
    if analysis.same_as:
        title.append(f"   the same function as {analysis.same_as}", style="not bold default")
    parts: list[RenderableType] = [title, Text(), grid, Text(), _fixed_points(analysis), Text()]
    if meant := _MEANT.get(analysis.torch_name or ""):
        parts += [Text(meant), Text()]
    return Group(*parts, Text(_meaning(analysis)), Text(), *_uses(analysis))


def gain_table(analyses: Iterable[GainAnalysis]) -> RenderableType:
    """All activations, one per line, in 80 columns."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("activation", style="cyan", no_wrap=True)
    for heading in ("gain", "backward", "torch", "chi_1", "slope"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("q = 1 is", no_wrap=True)
    for analysis in analyses:
        point = analysis.fixed_point
        table.add_row(
            analysis.name,
            _number(analysis.gain),
            _number(analysis.backward_gain),
            "-" if analysis.torch_gain is None else _number(analysis.torch_gain),
            _short(point.chi1),
            _short(point.slope),
            _stability_text(point),
        )
    note = Text(
        "gain = 1/sqrt(E[phi^2]); std of the weights = gain/sqrt(fan_in). chi_1: factor per layer of a "
        "gradient's mean square. slope: of the length map at q = 1; above 1 the signal drifts away with depth.",
        style="dim",
    )
    return Group(table, Text(), note)


def init_line(analysis: GainAnalysis) -> str:
    """The ``nn.init`` call that gives a weight ``w`` this forward gain.

    torch's own word is used where its gain agrees; ``fan_in`` stands for the layer's effective fan.
    """
    if not math.isfinite(analysis.gain):
        return "no gain restores the signal: E[phi(z)^2] is 0"
    if analysis.torch_name == "leaky_relu" and _torch_agrees(analysis):
        return f'nn.init.kaiming_normal_(w, a={analysis.negative_slope:g}, nonlinearity="leaky_relu")'
    if analysis.torch_name and _torch_agrees(analysis):
        return f'nn.init.kaiming_normal_(w, nonlinearity="{analysis.torch_name}")'
    return f"nn.init.normal_(w, std={_number(analysis.gain)} / math.sqrt(fan_in))"


def _uses(analysis: GainAnalysis) -> Iterator[RenderableType]:
    """Which line goes where: the first layer reads data, and data have passed no activation."""
    if not math.isfinite(analysis.gain):
        yield Text(init_line(analysis))
        return
    first = "nn.init.normal_(w, std=1 / math.sqrt(fan_in))"
    yield Text.assemble(("in the layers it feeds  ", "bold"), init_line(analysis))
    if abs(analysis.gain - 1) < _SAME_GAIN:
        yield Text.assemble(("in the first layer      ", "bold"), "the same")
        return
    yield Text.assemble(("in the first layer      ", "bold"), first)
    yield Text()
    yield Text(
        "The first layer reads data, which have passed no activation: its gain is 1. With "
        f"{analysis.gain:.3g} there too, the signal starts at q = {analysis.gain**2:.3g}{_from_there(analysis)}."
    )


def _from_there(analysis: GainAnalysis) -> str:
    slope = analysis.fixed_point.slope
    if slope is None:
        return ""
    if analysis.fixed_point.stability is Stability.STABLE:
        return ", from where depth brings it back"
    if analysis.fixed_point.stability is Stability.NEUTRAL:
        return " and stays there: one factor, whatever the depth"
    return ", beside an unstable fixed point, and drifts away"


def _torch_agrees(analysis: GainAnalysis) -> bool:
    torch_gain = analysis.torch_gain
    return torch_gain is not None and abs(torch_gain / analysis.gain - 1) < _SAME_GAIN


def _torch_text(analysis: GainAnalysis) -> str:
    if analysis.torch_gain is None:
        return "none: calculate_gain raises ValueError for it"
    call = f'calculate_gain("{analysis.torch_name}")'
    if analysis.negative_slope is not None:
        call = f'calculate_gain("{analysis.torch_name}", {analysis.negative_slope:g})'
    if _torch_agrees(analysis):
        return f"{_number(analysis.torch_gain)}   {call}, the same"
    off = analysis.torch_gain / analysis.gain - 1
    return f"{_number(analysis.torch_gain)}   {call}, {abs(off):.1%} {'above' if off > 0 else 'below'} the forward gain"


def _fixed_points(analysis: GainAnalysis) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("with", no_wrap=True)
    for heading in ("gain", "fixed point q*", "slope", "chi_1"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    points = [("forward gain", analysis.fixed_point), ("backward gain", analysis.backward_fixed_point)]
    if analysis.torch_fixed_point is not None:
        points.append(("torch's gain", analysis.torch_fixed_point))
    for label, point in points:
        table.add_row(
            label, _number(point.gain), *map(_short, (point.q, point.slope, point.chi1)), _stability_text(point)
        )
    return table


def _meaning(analysis: GainAnalysis) -> str:
    """What the forward gain does over many layers, in one or two sentences."""
    point = analysis.fixed_point
    if point.slope is None:
        return "No gain gives this activation a fixed point: use a norm layer after it."
    if point.stability is Stability.STABLE:
        depth = (
            f"A deviation is multiplied by {abs(point.slope):.3g} per layer: depth pulls the signal to its fixed point."
        )
    elif point.stability is Stability.NEUTRAL:
        depth = "Every scale is kept: depth neither corrects nor enlarges a deviation."
    else:
        depth = (
            f"A deviation is multiplied by {abs(point.slope):.3g} per layer: even with the right gain a deep net "
            "drifts away from its fixed point, so use norm layers or residual branches."
        )
    return f"{depth} {_gradient_meaning(point.chi1)}"


def _gradient_meaning(chi1: float | None) -> str:
    if chi1 is None or abs(chi1 - 1) < _EVEN:
        return "Gradients keep their size."
    if chi1 == 0:
        return "No gradient passes."
    if math.isinf(chi1):
        return "E[phi'(z)^2] is infinite: no gain bounds the gradient."
    layers = abs(2 * math.log(10) / math.log(chi1))
    verb = "grow" if chi1 > 1 else "shrink"
    return f"Gradients {verb}: times {math.sqrt(chi1):.3g} per layer, tenfold every {layers:.2g} layers."


def _stability_text(point: FixedPoint) -> Text:
    return Text(point.stability.value, style=_STYLES[point.stability])


def _number(value: float) -> str:
    """Six significant figures; a mean of zero within rounding is 0."""
    return "0" if abs(value) < 1e-12 else f"{value:.6g}"


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"

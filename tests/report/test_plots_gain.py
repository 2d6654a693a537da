import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, of the extra `figures`")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from initaudit.report.plots_gain import STARTS, gain_figure, staircase
from initaudit.theory.curves import curves
from initaudit.theory.elementwise import analyse


def drawn(name: str) -> tuple[Figure, list[Axes]]:
    drawing = gain_figure(analyse(name), curves(name))
    return drawing, list(drawing.axes)


def labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_the_figure_of_gelu() -> None:
    drawing, (function, length_map, chi1) = drawn("gelu")
    assert drawing.get_suptitle() == "gelu"
    assert labels(function) == ["N(0, 1)", "φ", "φ'"]
    assert labels(length_map) == ["forward gain 1.53", "unstable, slope 1.14"]
    assert labels(chi1) == ["1.07 at q = 1"]
    assert (length_map.get_xscale(), length_map.get_yscale()) == ("log", "log")
    hollow = [line for line in length_map.get_lines() if line.get_marker() == "o"]
    assert [line.get_fillstyle() for line in hollow] == ["none"]


def test_torchs_gain_is_drawn_where_it_differs() -> None:
    _, (_, length_map, chi1) = drawn("tanh")
    assert labels(length_map) == [
        "forward gain 1.59",
        "stable, slope 0.461",
        "torch's gain 1.67",
        "stable, slope 0.431",
    ]
    assert labels(chi1) == ["1.18 at q = 1", "1.21 at q = 1.18"]
    assert labels(drawn("relu")[1][1]) == ["forward gain 1.41", "neutral, slope 1"]


def test_the_map_of_relu_is_the_diagonal() -> None:
    _, (_, length_map, chi1) = drawn("relu")
    (image,) = [line for line in length_map.get_lines() if str(line.get_label()).startswith("forward")]
    assert image.get_ydata() == pytest.approx(image.get_xdata(), rel=1e-9)
    (factor,) = [line for line in chi1.get_lines() if len(line.get_xdata()) > 2]
    assert factor.get_ydata() == pytest.approx(np.ones(len(factor.get_xdata())))


@pytest.mark.parametrize(("name", "leads_there"), [("tanh", True), ("elu", True), ("gelu", False), ("silu", False)])
def test_staircases_lead_to_a_stable_fixed_point_and_away_from_an_unstable_one(name: str, leads_there: bool) -> None:
    gain = analyse(name).gain
    for start in STARTS:
        across, up = staircase(curves(name), gain, start)
        assert (across[0], up[0]) == (start, start)
        assert across[-1] == up[-1]  # it ends on the diagonal, having gone straight up and straight across
        assert all(a == c or b == d for a, b, c, d in zip(across, up, across[1:], up[1:], strict=False))
        assert bool(abs(np.log(across[-1])) < abs(np.log(start))) is leads_there


@pytest.mark.parametrize("name", ["swiglu", "sigmoid", "square"])
def test_gates_and_whatever_has_no_gain_of_torchs(name: str) -> None:
    _, axes = drawn(name)
    assert len(axes) == 3
    assert (axes[0].get_xlabel() == "b, in a · φ(b)") is (name == "swiglu")


def test_an_activation_that_gives_nothing_has_no_map() -> None:
    nothing = gain_figure(analyse(lambda x: 0 * x), curves(lambda x: 0 * x))
    assert labels(nothing.axes[1]) == []

"""Figures of hand-made reports, read back from matplotlib's own objects."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initaudit.errors import UsageError
from initaudit.records import Histogram, Op, Report, Role, Stats

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, of the extra `figures`")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from initaudit.report.plots import PANELS, figure, save
from initaudit.report.plots_canvas import check_path
from initaudit.report.plots_histograms import MOST_LINES, MOST_NAMES, curve_of, thinned


def panel(drawing: Figure, name: str, column: int = 0, columns: int = 1) -> Axes:
    """The axes of a panel when all four are drawn."""
    axes = drawing.axes
    place = PANELS.index(name)
    if columns == 1:  # two by two, the histograms on the left
        return axes[(place % 2) * 2 + place // 2]
    return axes[place * columns + column]


def steps(ax: Axes) -> list[StepPatch]:
    return [patch for patch in ax.patches if isinstance(patch, StepPatch)]


def line(ax: Axes, label: str) -> tuple[list[float], list[float]]:
    (found,) = [each for each in ax.get_lines() if each.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def texts(ax: Axes) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def bands(ax: Axes) -> list[tuple[float, float]]:
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in found]


def test_one_audit_has_four_panels(make: ModuleType) -> None:
    drawing = figure([make.glorot()])
    assert len(drawing.axes) == 4
    assert drawing.get_suptitle() == "examples/lecture.py::build_standard"
    labels = {name: (panel(drawing, name).get_xlabel(), panel(drawing, name).get_ylabel()) for name in PANELS}
    assert labels == {
        "activations": ("activation", "density (peak = 1)"),
        "gradients": ("gradient", "density (peak = 1)"),
        "forward": ("layer", "rms of pre-activations"),
        "backward": ("layer", "rms of gradients"),
    }
    (legend,) = drawing.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{n}: layers.{2 * (n - 1)}" for n in range(1, 6)]


def test_report_figure_is_the_figure_of_the_one(make: ModuleType) -> None:
    drawing = make.glorot().figure(panels=["forward"], titles=["five layers"])
    (ax,) = drawing.axes
    assert ax.get_ylabel() == "rms of pre-activations"
    assert drawing.get_suptitle() == "five layers"
    assert not drawing.legends  # of colours, which only histograms have


def test_the_curves_are_the_histograms_of_the_records(make: ModuleType) -> None:
    report = make.glorot()
    found = steps(panel(figure([report]), "activations"))
    assert len(found) == 5
    for patch, layer in zip(found, report.layers, strict=True):
        histogram = layer.calls[0].activation.histogram
        values, edges, _ = patch.get_data()
        assert (edges[0], edges[-1]) == (-histogram.limit, histogram.limit)
        assert values == pytest.approx(np.array(histogram.counts) / max(histogram.counts))


def test_the_layer_next_to_the_loss_is_not_among_the_gradients(make: ModuleType) -> None:
    report = make.glorot()
    drawing = figure([report])
    assert len(steps(panel(drawing, "gradients"))) == 4
    numbers, values = line(panel(drawing, "backward"), "rms")
    assert numbers == [1, 2, 3, 4]
    assert values == pytest.approx([layer.calls[0].gradient.rms for layer in report.layers[:4]])


def test_depth_shows_rms_spread_and_what_the_weights_declare(make: ModuleType) -> None:
    report = make.vanishing(depth=6)
    ax = panel(figure([report]), "forward")
    assert ax.get_yscale() == "log"
    rms = [layer.calls[0].pre_activation.rms for layer in report.layers]
    assert line(ax, "rms") == ([1, 2, 3, 4, 5, 6], pytest.approx(rms))
    assert line(ax, "across samples")[1] == pytest.approx(rms)
    predicted = math.sqrt(256 * 0.0361**2 * 1.0 + 0.0361**2)  # of weights, input and bias
    assert line(ax, "variance rule")[1] == pytest.approx([predicted] * 6)


def test_shaded_is_what_lies_within_the_limits_of_trainability(make: ModuleType) -> None:
    drawing = figure([make.vanishing()])
    first = make.vanishing().layers[0].calls[0].pre_activation.sample_std
    last = make.vanishing().layers[-2].calls[0].gradient.rms  # that of the last layer is the loss's
    for name, reference in (("forward", first), ("backward", last)):
        assert bands(panel(drawing, name)) == [
            pytest.approx((reference * math.exp(-limit / 2), reference * math.exp(limit / 2))) for limit in (6, 14)
        ]


@pytest.mark.parametrize("role", [Role.NORM, Role.EMBEDDING])
def test_nothing_is_shaded_where_the_scale_is_set_anew(make: ModuleType, role: Role) -> None:
    ops = (Op(1, "some_op", role, "body"),)
    drawing = figure([make.report(make.layer("a"), make.layer("b"), ops=ops)])
    assert not bands(panel(drawing, "forward"))
    assert not bands(panel(drawing, "backward"))


def test_several_audits_stand_side_by_side_on_the_same_axes(make: ModuleType) -> None:
    reports = [make.vanishing(), make.report(*(make.layer(f"body.{2 * i}") for i in range(12)))]
    drawing = figure(reports, titles=["before", "after"])
    assert len(drawing.axes) == 8
    assert [ax.get_title() for ax in drawing.axes[:2]] == ["before", "after"]
    for name in PANELS:
        left, right = (panel(drawing, name, column, columns=2) for column in range(2))
        assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    assert line(panel(drawing, "forward", 1, columns=2), "rms")[1] == pytest.approx([1.0] * 12)


def test_columns_of_different_layers_share_a_legend_of_depth(make: ModuleType) -> None:
    drawing = figure([make.glorot(), make.vanishing()])
    (legend,) = drawing.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert (words[0], words[-1]) == ("first layer", "last layer")


def test_panels_are_chosen(make: ModuleType) -> None:
    two = figure([make.glorot()], panels=["activations", "gradients"])
    assert [ax.get_xlabel() for ax in two.axes] == ["activation", "gradient"]
    three = figure([make.glorot()], panels=["activations", "gradients", "backward"])
    assert {ax.get_xlabel() for ax in three.axes} == {"activation", "gradient", "layer"}
    with pytest.raises(UsageError, match="unknown panel 'weights'; expected some of activations, gradients, forward"):
        figure([make.glorot()], panels=["weights"])
    with pytest.raises(UsageError, match="no panel to draw"):
        figure([make.glorot()], panels=[])


def test_a_report_without_a_run_is_left_out(make: ModuleType) -> None:
    assert len(figure([make.failed(), make.glorot()]).axes) == 4
    unrun = make.report(make.layer("a", calls=0))
    for reports in ([make.failed()], [unrun], []):
        with pytest.raises(UsageError, match="nothing to draw: no layer of a model was run and measured"):
            figure(reports)


def test_no_gradient(make: ModuleType) -> None:
    drawing = figure([make.report(*(make.layer(f"h.{i}", gradient=None) for i in range(3)))])
    assert "no gradients" in texts(panel(drawing, "gradients"))
    assert not panel(drawing, "backward").get_lines()
    assert len(steps(panel(drawing, "activations"))) == 3


def test_one_layer(make: ModuleType) -> None:
    drawing = figure([make.report(make.layer("only", activation=None))])
    assert len(steps(panel(drawing, "activations"))) == 1
    assert line(panel(drawing, "forward"), "rms") == ([1], [1.0])
    assert line(panel(drawing, "backward"), "rms") == ([1], [1.0])
    assert not bands(panel(drawing, "forward"))


def test_a_head_is_not_among_the_activations_that_others_read(make: ModuleType) -> None:
    drawing = figure([make.report(make.layer("hidden"), make.layer("head", activation=None))])
    assert len(steps(panel(drawing, "activations"))) == 1
    assert line(panel(drawing, "forward"), "rms")[0] == [1, 2]


def test_of_a_thousand_layers_a_few_are_drawn_and_named_and_all_are_measured(make: ModuleType) -> None:
    drawing = figure([make.report(*(make.layer(f"body.{i}") for i in range(1000)))])
    assert len(steps(panel(drawing, "activations"))) == MOST_LINES
    (legend,) = drawing.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == MOST_NAMES
    assert (names[0], names[-1]) == ("1: body.0", "1000: body.999")
    assert legend.get_title().get_text() == "layer (24 of 1,000 drawn)"
    assert len(line(panel(drawing, "forward"), "rms")[1]) == 1000


@given(count=st.integers(0, 300), most=st.integers(2, 30))
def test_thinned_keeps_both_ends_and_order(count: int, most: int) -> None:
    places = thinned(count, most)
    assert places == sorted(set(places))
    assert len(places) == min(count, most)
    assert not count or (places[0], places[-1]) == (0, count - 1)


def test_what_has_no_place_on_a_logarithmic_axis_is_marked_at_its_edge(make: ModuleType) -> None:
    layers = [
        make.layer("a", forward=1.0, gradient=0.0),
        make.layer("b", forward=0.0, after=make.stats(0.0, zero_fraction=1.0)),
        make.layer("c", gradient=2.0),
        make.layer("d"),
    ]
    bad = make.stats(1.0, nonfinite=3, rms=math.nan)
    layers[2] = make.layer("c", after=bad, calls=1)
    broken = [make.layer("x"), _with_pre_activation(make, "y", bad), make.layer("z")]
    drawing = figure([make.report(*layers)])
    assert "exactly 0" in texts(panel(drawing, "forward"))
    assert "exactly 0" in texts(panel(drawing, "backward"))
    assert math.isnan(line(panel(drawing, "forward"), "rms")[1][1])
    marks = [each for each in panel(drawing, "forward").get_lines() if each.get_marker() == "v"]
    assert list(marks[0].get_xdata()) == [2]
    ax = panel(figure([make.report(*broken)]), "forward")
    assert "not finite" in texts(ax)
    marks = [each for each in ax.get_lines() if each.get_marker() == "^"]
    assert list(marks[0].get_xdata()) == [2]


def _with_pre_activation(make: ModuleType, name: str, stats: Stats) -> Any:
    from dataclasses import replace

    layer = make.layer(name)
    return replace(layer, calls=(replace(layer.calls[0], pre_activation=stats),))


@pytest.mark.parametrize("limit", [math.inf, math.nan])
def test_an_exploded_histogram_is_left_out_and_the_rest_drawn(make: ModuleType, limit: float) -> None:
    exploded = make.stats(1e38, rms=math.inf, histogram=Histogram(limit, (1,) * 64))
    drawing = figure([make.report(make.layer("a"), make.layer("b", after=exploded), make.layer("c"))])
    assert len(steps(panel(drawing, "activations"))) == 2
    assert all(map(math.isfinite, panel(drawing, "activations").get_xlim()))


def test_constants_and_zeros_are_told(make: ModuleType) -> None:
    zeros = make.stats(0.0, zero_fraction=1.0, histogram=Histogram(2.0**-120, (0,) * 32 + (100,) + (0,) * 31))
    drawing = figure([make.report(make.layer("a", after=zeros), make.layer("b", after=zeros))])
    assert "nothing but zeros" in texts(panel(drawing, "activations"))
    assert "exactly 0: 100%" in texts(panel(drawing, "activations"))
    ones = make.stats(0.0, mean=1.0, rms=1.0, min=1.0, max=1.0, histogram=Histogram(1.0, (0,) * 63 + (500,)))
    (patch,) = steps(panel(figure([make.report(make.layer("a", after=ones))]), "activations"))
    assert patch.get_data().values.argmax() == 63


def test_an_activation_that_is_never_negative_has_an_axis_without_a_negative_half(make: ModuleType) -> None:
    rectified = make.stats(0.5, min=0.0, histogram=make.rectified_histogram(0.7), zero_fraction=0.5)
    ax = panel(figure([make.report(*(make.layer(f"h.{i}", after=rectified) for i in range(3)))]), "activations")
    low, high = ax.get_xlim()
    assert -0.1 * high < low < 0
    assert "exactly 0: 50%" in texts(ax)


def test_sizes_far_apart_are_drawn_by_magnitude(make: ModuleType) -> None:
    ax = panel(figure([make.vanishing(depth=12)]), "gradients")
    assert ax.get_xlabel() == "|gradient|"
    assert ax.get_xscale() == "log"
    curves = ax.get_lines()
    assert len(curves) == 11
    peaks = [curve.get_xdata()[np.argmax(curve.get_ydata())] for curve in curves]
    rms = [layer.calls[0].gradient.rms for layer in make.vanishing(depth=12).layers[:11]]
    assert np.log10(peaks) == pytest.approx(np.log10(rms), abs=0.15)  # |x| phi(x) is largest at one standard deviation


@given(zeros=st.floats(0.0, 0.9), std=st.floats(1e-6, 1e6))
def test_a_curve_integrates_to_what_is_not_zero(zeros: float, std: float) -> None:
    counts = np.round(1000 * np.exp(-(np.linspace(-4, 4, 64) ** 2) / 2)).astype(int)
    added = zeros / (1 - zeros) * counts.sum()
    counts[32] += int(added)
    share = int(added) / counts.sum()
    curve = curve_of(_stats(Histogram(4 * std, tuple(map(int, counts))), zero_fraction=share))
    assert curve is not None
    assert (curve.density * np.diff(curve.edges)).sum() == pytest.approx(1 - share)
    assert curve.zeros == share
    places, heights = curve.by_magnitude()
    assert np.trapezoid(heights, np.log10(places)) == pytest.approx(1 - share, rel=0.02)


def test_values_that_are_all_halved_are_the_same_curve_moved_to_the_left(make: ModuleType) -> None:
    whole, half = (curve_of(make.stats(std)) for std in (1.0, 0.5))
    assert whole is not None
    assert half is not None
    assert half.by_magnitude()[0] == pytest.approx(whole.by_magnitude()[0] / 2)
    assert half.by_magnitude()[1] == pytest.approx(whole.by_magnitude()[1])


def test_bins_of_a_few_values_are_joined_in_pairs() -> None:
    few = (3,) * 64
    curve = curve_of(_stats(Histogram(1.0, few)))
    assert curve is not None
    assert len(curve.density) == 16  # as many as are needed to see a shape
    assert curve.density == pytest.approx([0.5] * 16)
    many = curve_of(_stats(Histogram(1.0, (3000,) * 64)))
    assert many is not None
    assert len(many.density) == 64


def _stats(histogram: Histogram, **changes: Any) -> Stats:
    values = {"count": 1000, "sampled": 1000, "mean": 0.0, "std": 1.0, "rms": 1.0, "min": -1.0, "max": 1.0}
    return Stats(**(values | changes), histogram=histogram)


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_equal_figures_are_equal_files(make: ModuleType, tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        save(figure([make.vanishing(depth=3)], panels=["activations", "backward"]), str(path))
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith({".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])
    assert b"dc:date" not in first


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("figure.gif", "--figure figure.gif: the ending says what to write; expected one of .svg, .png, .pdf"),
        ("figure", "--figure figure: the ending says what to write; expected one of .svg, .png, .pdf"),
        ("no/such/a.svg", "--figure no/such/a.svg: the directory to write it to does not exist; create it first"),
    ],
)
def test_a_path_that_cannot_be_written_is_told_before_anything_is_drawn(path: str, message: str) -> None:
    with pytest.raises(UsageError) as told:
        check_path(path)
    assert str(told.value) == message


def test_a_file_that_cannot_be_written(make: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(UsageError, match=r"folder.svg cannot be written: Is a directory"):
        save(figure([make.glorot()], panels=["forward"]), str(tmp_path / "folder.svg"))


def test_without_matplotlib_the_error_says_what_to_install(make: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = (
        "figures are drawn by matplotlib, which is not installed: pip install 'initaudit[figures]', "
        "or pip install matplotlib"
    )
    for attempt in (lambda: figure([make.glorot()]), lambda: make.glorot().figure(), lambda: check_path("a.svg")):
        with pytest.raises(UsageError) as told:
            attempt()
        assert str(told.value) == message


def test_neither_torch_nor_pyplot_is_imported_to_draw(tmp_path: Path) -> None:
    factories = Path(__file__).with_name("factories.py")
    code = (
        f"import sys, runpy; make = runpy.run_path({str(factories)!r})\n"
        "from initaudit.report.plots import figure, save\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"save(figure([make['glorot']()], panels=['forward']), {str(tmp_path / 'a.svg')!r})\n"
        "print(*sorted({'torch', 'matplotlib.pyplot'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
    assert (tmp_path / "a.svg").exists()


def test_drawing_leaves_the_settings_of_matplotlib_alone(make: ModuleType) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure([make.glorot()])
    assert dict(matplotlib.rcParams) == before


def test_a_layer_that_is_called_twice_is_drawn_once(make: ModuleType) -> None:
    report: Report = make.report(make.layer("a", calls=2), make.layer("b", calls=3))
    ax = panel(figure([report]), "forward")
    assert line(ax, "rms") == ([1, 2], pytest.approx([1.0, 1.0]))


@pytest.mark.parametrize(
    "sizes",
    [[1.0] * 12, [0.3**i for i in range(12)], [3.0**i for i in range(12)], [1.0, 1e-3] * 6, [1.0, 0.0] * 6],
    ids=["even", "falling", "rising", "zigzag", "with zeros"],
)
def test_the_legend_covers_no_point(make: ModuleType, sizes: list[float]) -> None:
    layers = [make.layer(f"h.{i}", forward=size, gradient=size) for i, size in enumerate(sizes)]
    drawing = make.report(*layers).figure(panels=["forward", "backward"])
    drawing.draw_without_rendering()
    for ax in drawing.axes:
        box = ax.get_legend().get_window_extent()
        for curve in ax.get_lines():
            points = curve.get_transform().transform(np.transpose([curve.get_xdata(), curve.get_ydata()]))
            covered = [point for point in points if np.isfinite(point).all() and box.contains(*point)]
            assert len(covered) <= 2  # where a curve crosses the panel it may be touched

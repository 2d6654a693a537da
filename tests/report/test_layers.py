from types import ModuleType

import pytest
from rich.cells import cell_len

from initaudit.records import Op, Report, Role, Severity, Unjudged
from initaudit.report.glyphs import UNICODE
from initaudit.report.layers import layer_lines


def lines(report: Report, width: int = 80, verbose: int = 0) -> list[str]:
    return [line.plain for line in layer_lines(report, UNICODE, width=width, verbose=verbose)]


def row(report: Report, name: str, width: int = 120) -> str:
    (found,) = [line for line in lines(report, width) if line.split()[:1] == [name]]
    return found


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 240])
def test_no_line_is_wider_than_the_console(make: ModuleType, width: int) -> None:
    names = [f"transformer.encoder.layers.{i}.self_attention.output_projection" for i in range(4)]
    exploded = make.stats(1.0, rms=1.23e35, saturated_units=0.5)
    report = make.report(*(make.layer(name, after=exploded, forward=1.2e-9) for name in names))
    assert all(cell_len(line) <= width for line in lines(report, width))


def test_the_layer_next_to_the_loss_does_not_set_the_axis_of_gradients(make: ModuleType) -> None:
    report = make.report(*(make.layer(f"h.{i}", gradient=0.01) for i in range(3)), make.layer("head", gradient=1.0))
    assert "gradients within 0.03" in lines(report)[-2]
    assert "▂▄▇██▇▄▂" in row(report, "h.0", width=80)


def test_an_embedding_shows_no_expected_std(make: ModuleType) -> None:
    ops = (Op(1, "embedding", Role.EMBEDDING, "tokens", layer="tokens"),)
    report = make.report(make.layer("tokens"), make.layer("head"), ops=ops)
    assert "0.0361/" not in row(report, "tokens")
    assert "0.0361/0.0884" in row(report, "head")


def test_a_long_name_loses_its_middle(make: ModuleType) -> None:
    report = make.report(make.layer("transformer.encoder.layers.11.attention.output"), make.layer("head"))
    (name,) = [line.split()[0] for line in lines(report) if line.startswith("tra")]
    assert name.startswith("trans")
    assert name.endswith("output")
    assert "…" in name


def test_shortened_names_stay_distinct(make: ModuleType) -> None:
    names = [f"encoder.rnn.weight_{part}_l1_reverse" for part in ("ih", "hh")]
    report = make.report(*(make.layer(name) for name in names))
    shown = [line.split()[0] for line in lines(report) if line.startswith("en")]
    assert len(shown) == len(set(shown)) == 2
    assert all("…" in name for name in shown)


def test_columns_come_with_the_width(make: ModuleType) -> None:
    headers = {width: lines(make.vanishing(), width)[0] for width in (80, 120, 160)}
    always = ["layer", "std/expected", "forward rms", "gradient rms", "verdict"]
    assert all(column in header for header in headers.values() for column in always)
    assert "fan-in" not in headers[80]
    assert "fan-in" in headers[120]
    assert "init" not in headers[120]
    assert "init" in headers[160]


def test_marks(make: ModuleType) -> None:
    note = make.finding("IA501", "noted", Severity.NOTE)
    cause = make.finding("IA101", "cause", affected=("victim",))
    report = make.report(
        *(make.layer(name) for name in ("fine", "cause", "victim", "noted", "open")),
        make.layer("idle", calls=0),
        findings=(cause, make.finding("IA301", "cause", Severity.WARNING), note),
        unjudged=(Unjudged("open", "its fan-in is not known"),),
    )
    marks = {line.split()[0]: line.split()[-1] for line in lines(report)[2:8]}
    assert marks == {"fine": "✓", "cause": "IA101+1", "victim": "IA101", "noted": "IA501", "open": "·", "idle": "·"}
    assert row(report, "victim").endswith("↳ IA101")
    assert row(report, "cause").endswith("IA101 IA301")


def test_a_finding_at_a_parameter_marks_its_layer(make: ModuleType) -> None:
    report = make.report(make.layer("head"), findings=(make.finding("IA304", "head.bias"),))
    assert row(report, "head").endswith("IA304")


def test_a_long_run_of_healthy_layers_shows_its_ends(make: ModuleType) -> None:
    layers = [make.layer(f"h.{i}") for i in range(100)]
    report = make.report(*layers, findings=(make.finding(fqn="h.50"),))
    shown = lines(report)
    names = [line.split()[0] for line in shown[2:] if line.startswith("h.")]
    assert names == [
        "h.0",
        "h.1",
        "h.2",
        "h.47",
        "h.48",
        "h.49",
        "h.50",
        "h.51",
        "h.52",
        "h.53",
        "h.97",
        "h.98",
        "h.99",
    ]
    assert shown[5] == "… 44 more layers without errors or warnings"
    assert shown[13] == "… 43 more layers without errors or warnings"
    assert len(lines(report, verbose=1)) > 100


def test_victims_of_one_cause_are_a_run_too(make: ModuleType) -> None:
    names = [f"h.{i}" for i in range(30)]
    cause = make.finding(fqn="h.0", affected=tuple(names[1:]))
    shown = lines(make.report(*map(make.layer, names), findings=(cause,)))
    assert "… 23 more layers that follow from IA101" in shown


def test_a_run_that_would_save_one_line_is_shown(make: ModuleType) -> None:
    assert not any("more layers" in line for line in lines(make.report(*(make.layer(f"h.{i}") for i in range(7)))))
    assert any("2 more layers" in line for line in lines(make.report(*(make.layer(f"h.{i}") for i in range(8)))))


@pytest.mark.parametrize(
    ("dead", "saturated", "text"),
    [(0.52, None, "52% dead"), (0.0, 0.4, "40% sat."), (0.0, 0.0, "0%"), (0.001, None, "<1% dead")],
)
def test_flat_units(make: ModuleType, dead: float, saturated: float | None, text: str) -> None:
    after = make.stats(0.5, dead_units=dead, saturated_units=saturated)
    assert text in row(make.report(make.layer("head", after=after)), "head")


def test_a_layer_that_was_never_called_has_blanks(make: ModuleType) -> None:
    report = make.report(make.layer("body"), make.layer("idle", calls=0))
    assert "█" not in row(report, "idle")
    assert "█" in row(report, "body")

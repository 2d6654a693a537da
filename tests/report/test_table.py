from dataclasses import replace
from io import StringIO
from types import ModuleType
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from syrupy.assertion import SnapshotAssertion

from initaudit.records import Session
from initaudit.report.table import render_session, report_renderables

MISMATCH = "tried float32[32,64]:\nmat1 and mat2 shapes cannot be multiplied\nsay which input with --input"


def run(make: ModuleType) -> Session:
    return Session((make.vanishing(), make.glorot(), make.failed(message=MISMATCH)))


@pytest.mark.parametrize("width", [80, 120, 160])
def test_a_whole_run(make: ModuleType, screen: Any, width: int, snapshot: SnapshotAssertion) -> None:
    view = screen(width)
    render_session(view.console, run(make))
    assert view.text == snapshot
    assert max(map(cell_len, view.lines)) <= width


def test_a_console_without_unicode_gets_ascii(make: ModuleType, screen: Any, snapshot: SnapshotAssertion) -> None:
    view = screen(80, encoding="ascii")
    render_session(view.console, run(make), verbose=1)
    assert view.text.isascii()
    assert view.text == snapshot


def test_verbose_shows_notes_and_what_was_not_judged(make: ModuleType, screen: Any) -> None:
    brief, full = screen(80), screen(80)
    render_session(brief.console, run(make))
    render_session(full.console, run(make), verbose=1)
    assert "1 note: IA501 torch-default-init (-v shows them)" in brief.lines
    assert "not judged: 1 part (-v lists them)" in brief.lines
    assert "note IA501 torch-default-init at body.4" in full.lines
    assert "  head: never called" in full.lines
    assert "-v" not in full.text


def test_quiet_is_one_line_for_each_model(make: ModuleType, screen: Any) -> None:
    view = screen(100)
    render_session(view.console, run(make), quiet=1, seconds=3.2)
    assert view.lines == [
        "FAIL  model.py::Net  1 error, 1 warning, 1 note; IA101 vanishing-activations at body.0",
        "PASS  examples/lecture.py::build_standard  none",
        "ERROR bad.py::Net  input: tried float32[32,64]:",
        " 1 failed, 1 passed, 1 error in 3.2 s ".center(100, "="),
    ]


def test_quieter_is_only_the_closing_line(make: ModuleType, screen: Any) -> None:
    view = screen(60)
    render_session(view.console, run(make), quiet=2)
    assert view.lines == [" 1 failed, 1 passed, 1 error in 0.9 s ".center(60, "=")]


@pytest.mark.parametrize(
    ("fail_on", "badge", "meaning"),
    [
        ("error", "FAIL", "exit status 1: findings at or above --fail-on error"),
        ("never", "PASS", "exit status 0: nothing at or above --fail-on never"),
    ],
)
def test_badge_and_exit_status_follow_fail_on(
    make: ModuleType, screen: Any, fail_on: str, badge: str, meaning: str
) -> None:
    view = screen(80)
    render_session(view.console, Session((make.vanishing(),)), fail_on=fail_on)
    assert view.lines[0].startswith(f"── {badge} model.py::Net ──")
    assert view.lines[-2] == meaning


def test_an_empty_run_says_so(screen: Any) -> None:
    view = screen(60)
    render_session(view.console, Session())
    assert view.lines == [
        "findings: none",
        "exit status 5: no model was collected",
        " nothing collected in 0.00 s ".center(60, "="),
    ]


def test_code_is_never_broken(make: ModuleType, screen: Any) -> None:
    access = "m.encoder.layers[11].self_attention.output_projection.dense"
    report = make.report(make.layer("body.0"), findings=(make.finding(advice=make.kaiming(access)),))
    view = screen(60)
    render_session(view.console, Session((report,)))
    assert f'    nn.init.kaiming_normal_({access}.weight, nonlinearity="relu")' in view.lines


def test_rich_prints_a_report(make: ModuleType, screen: Any) -> None:
    view = screen(80)
    view.console.print(make.vanishing())
    assert view.lines[0].startswith("── FAIL model.py::Net ──")
    assert "error IA101 vanishing-activations at body.0" in view.lines
    assert max(map(cell_len, view.lines)) <= 80


def test_names_are_not_read_as_markup(make: ModuleType, screen: Any) -> None:
    report = make.report(
        make.layer("blocks[red]"), findings=(make.finding(fqn="blocks[red]", message="see [bold]x[/bold]"),)
    )
    view = screen(80)
    render_session(view.console, Session((report,)))
    assert "  see [bold]x[/bold]" in view.lines
    assert "blocks[red]" in view.text


def test_control_characters_do_not_reach_the_terminal(make: ModuleType, screen: Any) -> None:
    view = screen(80)
    render_session(view.console, Session((make.failed(message="bad \x1b[31mred\x07"),)))
    assert "\x1b" not in view.text
    assert "\x07" not in view.text


def test_colours_are_the_consoles_to_decide(make: ModuleType) -> None:
    file = StringIO()
    render_session(Console(width=80, force_terminal=True, color_system="standard", file=file), run(make))
    assert "\x1b[1;31merror IA101" in file.getvalue()


def test_a_report_without_layers_is_still_a_report(make: ModuleType, screen: Any) -> None:
    view = screen(80)
    for line in report_renderables(make.report(), width=80):
        view.console.print(line)
    assert view.lines[0].startswith("── PASS model.py::Net")
    assert "layer" not in view.text


def test_several_draws_are_said_with_their_seeds(make: ModuleType, screen: Any) -> None:
    view = screen(140)
    render_session(view.console, Session((replace(make.vanishing(), seeds=(0, 1, 2)),)))
    assert "cpu float32, 3 draws with seeds 0 to 2, layers as with seed 0, torch 2.13.0" in view.text

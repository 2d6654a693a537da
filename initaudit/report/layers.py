"""The table of layers: as many columns as the width holds, and no line that wraps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from initaudit.records import Layer, LayerCall, Report, Severity, Stats
from initaudit.report.figures import expected_std, lookups, number, percent, whole
from initaudit.report.glyphs import Glyphs
from initaudit.report.lines import packed, paragraph
from initaudit.report.merge import merge
from initaudit.report.sparkline import axis_limit, sparkline

SEVERITY_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
EDGE = 3  # rows kept at each end of a run of layers that are all alike


@dataclass(frozen=True, slots=True)
class Row:
    """One layer. ``run`` says what it may be left out with; ``""`` for a layer that is always shown."""

    layer: Layer
    mark: str
    style: str
    run: str
    before: Stats | None
    after: Stats | None
    gradient: Stats | None


@dataclass(frozen=True)
class Column:
    """``rank`` 0 is the last to be dropped where the width is short; ``tint`` colours the last ``bars`` cells."""

    header: str
    cells: tuple[str, ...]
    rank: int
    align: str = "left"
    bars: int = 0
    tint: str = ""

    @cached_property
    def width(self) -> int:
        return max(map(cell_len, (self.header, *self.cells)))


def layer_lines(report: Report, glyphs: Glyphs, *, width: int, verbose: int = 0) -> Iterator[Text]:
    """Header, one line per layer, and the axes of the histograms; nothing for a report without layers.

    Runs of more than ``2 * EDGE + 1`` layers that are alike are shortened to their ends unless ``verbose``, which also
    brings the factor that the weights declare and the one that was measured.
    """
    rows = [_row(report, layer, glyphs, brief=width < 120) for layer in report.layers]
    if not rows:
        return
    forward = axis_limit([row.after.rms if row.after else None for row in rows])
    # The layer next to the loss is left out: it carries the cotangent, whose size says nothing of the model.
    carried = [row.gradient.rms if row.gradient else None for row in reversed(rows)]
    backward = axis_limit(carried[len(rows) > 1 :])
    gap = " " if width < 100 else "  "
    every = _columns(rows, glyphs, width, (forward, backward), lookups(report), verbose)
    columns = _fitted(every, glyphs, width, len(gap))
    yield _line(columns, gap, None, "bold")
    yield Text(gap.join(glyphs.rule * column.width for column in columns), "dim", no_wrap=True)
    for run, members in groupby(enumerate(rows), key=lambda item: item[1].run or f"#{item[0]}"):
        group = list(members)
        left_out = 0 if verbose or len(group) <= 2 * EDGE + 1 else len(group) - 2 * EDGE
        for position, (index, row) in enumerate(group):
            if not EDGE <= position < EDGE + left_out:
                yield _line(columns, gap, index, row.style)
            elif position == EDGE:
                yield Text(f"{glyphs.ellipsis} {left_out} more layers {run}", "dim", no_wrap=True)
    headers = {column.header for column in columns}
    bars = f"bars: activations within {number(forward)} of 0, gradients within {number(backward)}, in every row"
    legend = [bars] * ("forward rms" in headers)
    legend += ["expected std: gain / sqrt(fan-in)"] * ("std/expected" in headers and any(r.layer.calls for r in rows))
    legend += ["factor: mean square after over before, declared by the weights/measured"] * ("factor" in headers)
    legend += ["flat: units that are dead or saturated"] * ("flat" in headers)
    for line in packed(legend, glyphs, width):
        yield from paragraph(line, glyphs, width=width, style="dim")


def _row(report: Report, layer: Layer, glyphs: Glyphs, *, brief: bool) -> Row:
    def merged(tensor: Callable[[LayerCall], Stats | None]) -> Stats | None:
        return merge(tensor(call) for call in layer.calls)

    mark, style, run = _verdict(report, layer, glyphs, brief=brief)
    before = merged(lambda call: call.pre_activation)
    after = merged(lambda call: call.activation) or before
    return Row(layer, mark, style, run, before, after, merged(lambda call: call.gradient))


def _verdict(report: Report, layer: Layer, glyphs: Glyphs, *, brief: bool) -> tuple[str, str, str]:
    """Mark, style and run of a layer: its own findings first, else the root cause it suffers from."""
    own = (layer.fqn, layer.weight.fqn, layer.bias.fqn if layer.bias else layer.fqn)
    findings = [finding for finding in report.findings if finding.fqn in own]
    codes = list(dict.fromkeys(finding.code for finding in findings))
    mark = " ".join(codes) if len(codes) < 2 or not brief else f"{codes[0]}+{len(codes) - 1}"
    if findings and findings[0].severity is not Severity.NOTE:
        return mark, SEVERITY_STYLE[findings[0].severity], ""
    cause = next((finding for finding in report.findings if finding.root_cause and layer.fqn in finding.affected), None)
    if cause is not None and cause.severity is not Severity.NOTE:
        return f"{glyphs.follows} {cause.code}", "", f"that follow from {cause.code}"
    if findings:
        return mark, "", "without errors or warnings"
    if not layer.calls or layer.fqn in _unjudged(report):
        return glyphs.unjudged, "dim", "not judged"
    return glyphs.healthy, "", "without errors or warnings"


def _unjudged(report: Report) -> set[str]:
    return {part.fqn for part in report.trace.unjudged} if report.trace else set()


def _columns(
    rows: Sequence[Row],
    glyphs: Glyphs,
    width: int,
    limits: tuple[float, float],
    tables: frozenset[str],
    verbose: int,
) -> Iterator[Column]:
    """Every column there is, in the order shown. ``limits`` are those of the axes of activations and gradients."""
    forward, backward = limits
    bars = 8 if width < 100 else 10 if width < 140 else 16

    def signal(rms: Stats | None, shape: Stats | None, limit: float) -> str:
        figure = number(rms.rms, aligned=True) if rms else ""
        return f"{figure:>7} {sparkline(shape.histogram if shape else None, limit, bars, glyphs.blocks)}"

    def column(header: str, rank: int, cell: Callable[[Row], str], align: str = "left", **bars: Any) -> Column:
        return Column(header, tuple(cell(row) for row in rows), rank, align, **bars)

    yield column("layer", 0, lambda row: row.layer.fqn or "(model)")
    yield column("kind", 8, lambda row: glyphs.clean(row.layer.kind))
    yield column("shape", 10, lambda row: glyphs.times.join(map(str, row.layer.weight.shape)))
    yield column("fan-in", 9, lambda row: whole(row.layer.fan_in), "right")
    yield column("init", 11, lambda row: glyphs.clean(row.layer.weight.init))
    yield column("std/expected", 4, lambda row: _std(row.layer, tables), "right")
    yield column("factor", 7 if verbose else 12, lambda row: _factor(row.layer), "right")
    yield column("act.", 5, lambda row: _activation(row.layer, glyphs, 7 if width < 100 else 14))
    yield column("forward rms", 2, lambda row: signal(row.before, row.after, forward), bars=bars, tint="blue")
    yield column("gradient rms", 3, lambda row: signal(row.gradient, row.gradient, backward), bars=bars, tint="magenta")
    yield column("flat", 6, lambda row: _flat(row.after), "right")
    yield column("verdict", 1, lambda row: row.mark)


def _std(layer: Layer, tables: frozenset[str]) -> str:
    expected = expected_std(layer, tables)
    return number(layer.weight.std, aligned=True) + (f"/{number(expected, aligned=True):<6}" if expected else " " * 7)


def _factor(layer: Layer) -> str:
    """Mean square after over before: what the weights declare, and what was measured."""
    measured = layer.measured_factor
    declared = number(layer.declared_factor, aligned=True)
    return f"{declared}/{number(measured, aligned=True):<6}" if measured is not None else ""


def _activation(layer: Layer, glyphs: Glyphs, width: int) -> str:
    name = glyphs.clean(layer.nonlinearity.name) if layer.nonlinearity else ""
    return name if cell_len(name) <= width else set_cell_size(name, width - len(glyphs.ellipsis)) + glyphs.ellipsis


def _flat(stats: Stats | None) -> str:
    """The units that pass no gradient back: dead ones, or saturated ones where there are more."""
    if stats is None or (stats.dead_units is None and stats.saturated_units is None):
        return ""
    dead, saturated = stats.dead_units or 0.0, stats.saturated_units or 0.0
    if not dead and not saturated:
        return "0%"
    return f"{percent(dead)} dead" if dead >= saturated else f"{percent(saturated)} sat."


def _fitted(columns: Iterator[Column], glyphs: Glyphs, width: int, gap: int) -> list[Column]:
    """The columns that go in ``width``, by rank; the first one is shortened to what they leave."""
    layer, *others = columns
    room = width - min(layer.width, max(width // 4 - 1, 12))
    chosen = []
    for column in sorted(others, key=lambda column: column.rank):
        if column.width + gap <= room and any(map(str.strip, column.cells)):
            room -= column.width + gap
            chosen.append(column)
    limit = width - sum(column.width + gap for column in chosen)
    names = _shortened(layer.cells, glyphs, limit)
    return [replace(layer, cells=names), *(column for column in others if column in chosen)]


def _shortened(names: Sequence[str], glyphs: Glyphs, width: int) -> tuple[str, ...]:
    """The names in ``width`` cells, cut where most of them stay distinct, nearest to a third if there is a choice."""
    cuts = [tuple(glyphs.middle(name, width, head) for name in names) for head in (1 / 3, 1 / 4, 1 / 6, 1 / 2, 0)]
    return max(cuts, key=lambda cut: len(set(cut)))


def _line(columns: Sequence[Column], gap: str, index: int | None, style: str) -> Text:
    """The header (``index`` None) or a row; the style colours the name and the mark, the figures stay readable."""
    line = Text(no_wrap=True)
    for position, column in enumerate(columns):
        text = column.header if index is None else column.cells[index]
        space = " " * (column.width - cell_len(text))
        coloured = index is None or column.header in ("layer", "verdict")
        line.append(gap if position else "")
        line.append(space + text if column.align == "right" else text + space, style if coloured else None)
        if index is not None and column.bars:
            line.stylize(column.tint, len(line) - column.bars)
    line.rstrip()
    return line

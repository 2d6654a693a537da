"""Cures for people and for scripts: before and after side by side, the code, and what stays open."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.text import Text

from initaudit.records import SCHEMA_VERSION, Cure, Report, Severity, Vitals
from initaudit.report.figures import counted, number
from initaudit.report.glyphs import ASCII, UNICODE, Glyphs
from initaudit.report.json import audit_to_dict
from initaudit.report.lines import paragraph
from initaudit.report.outcome import outcome

HEALTHY, FIXED, BETTER, OPEN, ERROR = "nothing to fix", "fixed", "better", "open", "error"
STYLE = {HEALTHY: "bold green", FIXED: "bold green", BETTER: "bold yellow", OPEN: "bold red", ERROR: "bold magenta"}
COLUMN = 26  # cells of the figures before the cure
VITALS = ("seed", "smallest", "largest", "gradient_ratio")


def cure_outcome(cure: Cure, fail_on: str = "error") -> str:
    """``"nothing to fix"``, ``"fixed"``, ``"better"`` (something at ``fail_on`` is left), ``"open"`` or ``"error"``."""
    if cure.before.error is not None:
        return ERROR
    if all(f.severity is Severity.NOTE for f in cure.before.findings):
        return HEALTHY
    if cure.after is None:
        return OPEN
    return FIXED if outcome(cure.after, fail_on) == "pass" else BETTER


def cure_exit_code(cures: Sequence[Cure], fail_on: str = "error") -> int:
    """0 where nothing is left at or above ``fail_on``, 1 where something is, 2 an error, 5 no model at all."""
    if not cures:
        return 5
    left = {outcome(cure.after or cure.before, fail_on) for cure in cures}
    return 2 if "error" in left else int("fail" in left)


def cure_lines(cure: Cure, *, width: int, fail_on: str = "error", ascii_only: bool = False) -> Iterator[Text]:
    """The cure as lines of at most ``width`` cells, save for the code, which is left whole to be copied."""
    glyphs = ASCII if ascii_only else UNICODE
    word = cure_outcome(cure, fail_on)
    title = f"{glyphs.rule * 2} {word.upper()} {glyphs.clean(cure.before.target)} "
    yield Text(title + glyphs.rule * (width - len(title)), STYLE[word], no_wrap=True, overflow="ignore")
    if cure.before.error is not None:
        yield from paragraph(f"failed at stage {cure.before.error.stage}:", glyphs, width=width)
        yield from paragraph(cure.before.error.message, glyphs, width=width, indent=2)
        return
    trace = cure.before.trace
    if trace is not None:
        yield from paragraph(f"inputs {trace.inputs}, {trace.inputs_source}", glyphs, width=width, style="dim")
    yield Text()
    yield from _table(cure)
    if cure.code:
        share = f"sets {len(cure.changed)} of {counted(cure.parameters, 'parameter')}"
        when = "after the model's first run" if cure.lazy else "after building the model"
        yield Text()
        yield from paragraph(f"{share}; call init_weights(model) {when}:", glyphs, width=width)
        yield Text()
        for line in cure.code.splitlines():
            yield Text(glyphs.clean(line), "green")
    yield from _open(cure, glyphs, width)


def _table(cure: Cure) -> Iterator[Text]:
    after = cure.after
    rows: list[tuple[str, str, str]] = [
        ("", _drawn(cure.vitals_before, "before"), _drawn(cure.vitals_after, "after") if after else ""),
        ("verdict", cure.before.verdict, after.verdict if after else ""),
        ("findings", _findings(cure.before), _findings(after)),
        ("severity score", number(cure.before.severity_score), number(after.severity_score) if after else ""),
    ]
    figures: tuple[tuple[str, Callable[[Vitals], float | None]], ...] = (
        ("smallest rms of a pre-activation", lambda v: v.smallest),
        ("largest rms of a pre-activation", lambda v: v.largest),
        ("gradient rms, first over last layer", lambda v: v.gradient_ratio),
    )
    rows += [(name, _span(cure.vitals_before, take), _span(cure.vitals_after, take)) for name, take in figures]
    wide = max(len(name) for name, _, _ in rows) + 2
    for place, (name, before, now) in enumerate(rows):
        yield Text(f"{name:<{wide}}{before:<{COLUMN}}{now}".rstrip(), "" if place else "bold")


def _drawn(vitals: Sequence[Vitals], word: str) -> str:
    return f"{word} ({counted(len(vitals), 'draw')})"


def _findings(report: Report | None) -> str:
    if report is None:
        return ""
    severities = [f.severity for f in report.findings]
    found = [counted(severities.count(s), s.value) for s in (Severity.ERROR, Severity.WARNING) if severities.count(s)]
    return ", ".join(found) or "none above a note"


def _span(vitals: Sequence[Vitals], take: Callable[[Vitals], float | None]) -> str:
    """One figure, or the smallest and the largest over the draws."""
    values = [value for v in vitals if (value := take(v)) is not None and not math.isnan(value)]
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _open(cure: Cure, glyphs: Glyphs, width: int) -> Iterator[Text]:
    if not cure.remarks:
        return
    yield Text()
    head = "stays open:" if cure.code else "stays open, for no initialization that was tried is better:"
    yield Text(head, "bold")
    for remark in cure.remarks:
        yield from paragraph(remark, glyphs, width=width, indent=2)


def render_cures_json(cures: Sequence[Cure], fail_on: str = "error") -> str:
    """One JSON document with every cure in the order tried; the audits are those of the schema."""
    document = {"schema_version": SCHEMA_VERSION, "cures": [_entry(cure, fail_on) for cure in cures]}
    return json.dumps(document, allow_nan=False, indent=2)


def _entry(cure: Cure, fail_on: str) -> dict[str, Any]:
    return {
        "target": cure.before.target,
        "outcome": cure_outcome(cure, fail_on),
        "code": cure.code or None,
        "changed": list(cure.changed),
        "measured": cure.measured,
        "open": list(cure.remarks),
        "vitals": {
            "before": [_vitals(v) for v in cure.vitals_before],
            "after": [_vitals(v) for v in cure.vitals_after],
        },
        "before": audit_to_dict(cure.before),
        "after": audit_to_dict(cure.after) if cure.after else None,
    }


def _vitals(vitals: Vitals) -> dict[str, Any]:
    found = {key: getattr(vitals, key) for key in VITALS}
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}

"""From what the rules saw to findings: one cause one finding, worst first, and only those that were asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initaudit
from initaudit.errors import UsageError
from initaudit.records import Severity
from initaudit.rules import RULES, diagnose, matching
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.diagnosis import diagnose_with
from tests.rules.factories import Net
from tests.rules.nets import alarms, batch, cured, found, net, roots, scale


def rule(code: str, *seen: Observation, severity: Severity = Severity.ERROR) -> Rule:
    return Rule(code, code.lower(), severity, Limit(1.0, "unit", "source"), lambda flow: iter(seen))


def diagnose_two(*rules: Rule) -> list[tuple[str, str, bool]]:
    return [(f.code, f.fqn, f.root_cause) for f in diagnose_with(rules, Net().trace())]


def test_a_later_rule_at_an_explained_layer_is_a_consequence() -> None:
    first = rule("A", Observation("a", "cause", affected=("b",)))
    second = rule("B", Observation("b", "victim"), Observation("c", "another cause"))
    assert diagnose_two(first, second) == [("A", "a", True), ("B", "c", True), ("B", "b", False)]


def test_a_note_at_an_explained_layer_is_dropped() -> None:
    first = rule("A", Observation("a", "cause"))
    assert diagnose_two(first, rule("B", Observation("a", "detail"), severity=Severity.NOTE)) == [("A", "a", True)]


def test_a_note_explains_nothing() -> None:
    first = rule("A", Observation("a", "mention"), severity=Severity.NOTE)
    assert diagnose_two(first, rule("B", Observation("a", "fault"))) == [("B", "a", True), ("A", "a", True)]


def test_worst_first_then_causes_first_then_the_order_of_the_rules() -> None:
    note = rule("N", Observation("n", ""), severity=Severity.NOTE)
    warning = rule("W", Observation("w", ""), Observation("w2", ""), severity=Severity.WARNING)
    error = rule("E", Observation("w", ""), Observation("e", ""))
    assert [(c, fqn) for c, fqn, _ in diagnose_two(note, warning, error)] == [
        ("E", "e"), ("E", "w"), ("W", "w"), ("W", "w2"), ("N", "n"),
    ]  # fmt: skip


def test_an_observation_may_be_milder_than_its_rule_and_have_a_limit_of_its_own() -> None:
    seen = Observation("a", "text", observed=3.0, limit=2.0, severity=Severity.WARNING, affected=("b",))
    (finding,) = diagnose_with([rule("A", seen)], Net().trace())
    assert (finding.severity, finding.observed, finding.limit, finding.unit) == (Severity.WARNING, 3.0, 2.0, "unit")
    (finding,) = diagnose_with([rule("A", Observation("a", "text"))], Net().trace())
    assert (finding.severity, finding.limit) == (Severity.ERROR, 1.0)


def test_a_line_of_code_becomes_advice() -> None:
    (finding,) = diagnose_with([rule("A", Observation("a", "", code="nn.init.zeros_(m.a.bias)"))], Net().trace())
    assert finding.advice is not None
    assert (finding.advice.scheme, finding.advice.code) == ("zeros_", "nn.init.zeros_(m.a.bias)")


def collapsed() -> nn.Sequential:
    return net(20, gain=0.6)


def test_one_cause_has_one_root() -> None:
    """Twenty layers too small: one finding says it, the gradient is its consequence, and no layer is accused alone."""
    report = initaudit.audit(collapsed(), batch())
    assert roots(report) == [("IA101", "0")]
    assert [(f.code, f.root_cause) for f in alarms(report)] == [("IA101", True), ("IA201", False)]
    assert not [f for f in report.findings if f.code in ("IA301", "IA303")]


def test_two_causes_have_two_roots() -> None:
    model = net()
    nn.init.constant_(model[6].bias, -2.5)
    scale(model[24], 300)
    assert {fqn for _, fqn in roots(initaudit.audit(model, batch()))} == {"6", "24"}


@pytest.mark.parametrize(
    "fault",
    [
        "zeros",
        "nan",
        "dead",
    ],
)
def test_what_comes_before_the_drift_is_its_cause(fault: str) -> None:
    model = net()
    with torch.no_grad():
        if fault == "zeros":
            model[6].weight.zero_()
        elif fault == "nan":
            model[6].weight[0, 0] = float("nan")
        else:
            model[6].bias.fill_(-1e3)
    report = initaudit.audit(model, batch())
    assert report.findings[0].fqn.startswith("6")
    assert {fqn.partition(".")[0] for _, fqn in roots(report)} == {"6"}
    assert report.verdict == "fail"


@pytest.mark.parametrize("first", [0, 2])
def test_weights_with_a_mean_come_before_the_explosion_that_they_cause(first: int) -> None:
    model = net(4)
    for layer in model[first::2]:
        nn.init.uniform_(layer.weight)
    report = initaudit.audit(model, batch())
    cause = report.findings[0]
    assert (cause.code, cause.fqn, cause.severity.value) == ("IA305", str(first), "error")
    assert cause.advice is not None
    assert f"it leads to exploding-activations {'here' if first == 0 else 'at 0'}" in cause.message
    assert not found(report, "IA102").root_cause
    assert not alarms(cured(model, report, batch()))


@pytest.mark.parametrize("seed", range(3))
def test_a_bias_that_drowns_the_signal_comes_before_the_drift_from_the_same_layer(seed: int) -> None:
    model = net(4, activation=nn.Tanh, gain=1.0, seed=seed)
    for layer in model[::2]:
        nn.init.constant_(layer.bias, 5.0)
    report = initaudit.audit(model, batch())
    assert (report.findings[0].code, report.findings[0].fqn) == ("IA306", "0")
    assert roots(report) == [("IA306", "0")]


def test_a_cause_inside_a_drift_is_not_told_of_the_layers_before_it() -> None:
    model = net(6)
    nn.init.uniform_(model[6].weight)
    cause = found(initaudit.audit(model, batch()), "IA305")
    assert not {"0", "2", "4"} & set(cause.affected)


def test_weights_that_are_too_small_do_not_make_the_output_too_large() -> None:
    model = net(4)
    model[6].reset_parameters()
    report = initaudit.audit(model, batch().abs() * 150)
    assert "leads to" not in found(report, "IA301").message
    assert found(report, "IA401").root_cause


def test_select_and_ignore_take_codes_names_and_beginnings() -> None:
    model, x = collapsed(), batch()

    def codes(**options: list[str]) -> set[str]:
        return {f.code for f in initaudit.audit(model, x, **options).findings}

    everything = codes()
    assert everything >= {"IA101", "IA201"}
    assert codes(select=["IA101"]) == codes(select=["vanishing-activations"]) == codes(select=["ia101"]) == {"IA101"}
    assert codes(select=["IA1", "IA2"]) == codes(select=["IA1,IA2"]) == {c for c in everything if c[2] in "12"}
    assert codes(ignore=["IA101"]) == everything - {"IA101"}
    assert codes(select=["IA1"], ignore=["IA101,IA109"]) == set()
    assert codes(ignore=[" "]) == everything


def test_a_blank_selection_is_none() -> None:
    model, x = collapsed(), batch()
    assert initaudit.audit(model, x, select=[""]).findings == initaudit.audit(model, x).findings


def test_ignoring_the_cause_makes_its_consequence_the_root() -> None:
    report = initaudit.audit(collapsed(), batch(), ignore=["IA101"])
    assert found(report, "IA201").root_cause


def test_an_unknown_code_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(UsageError, match=r"unknown rule 'IA119'.*did you mean IA1"):
        initaudit.audit(collapsed(), batch(), select=["IA119"])
    with pytest.raises(UsageError, match="did you mean dead-units"):
        initaudit.audit(collapsed(), batch(), ignore=["dead-unit"])
    with pytest.raises(UsageError, match="see `initaudit rule`"):
        matching(["qqqq"])


def test_the_empty_trace_has_no_findings() -> None:
    assert diagnose(Net().trace()) == ()
    assert len(RULES) == len(matching(["IA"]))


def test_advice_of_every_root_cures_what_it_can() -> None:
    model = collapsed()
    report = initaudit.audit(model, batch())
    assert not alarms(cured(model, report, batch()))

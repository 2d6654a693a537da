"""One verdict over several draws: what keeps its severity, what becomes milder, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import initaudit
from initaudit.errors import AuditError, UsageError
from initaudit.records import Environment, Finding, Report, Severity, Trace, Unjudged
from initaudit.rules.draws import audit_draws, over_draws
from tests.rules.factories import parameter

ERROR, WARNING, NOTE = Severity


def finding(
    fqn: str = "body.0",
    severity: Severity = ERROR,
    code: str = "IA101",
    affected: Sequence[str] = (),
    root: bool = True,
) -> Finding:
    return Finding(code, "some-rule", severity, fqn, f"seen at {fqn}", affected=tuple(affected), root_cause=root)


def verdict(*draws: Sequence[Finding]) -> tuple[Finding, ...]:
    return over_draws(list(enumerate(draws)))


def facts(findings: Sequence[Finding]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(f.fqn, f.severity.value, f.draws) for f in findings]


@pytest.mark.parametrize(
    ("severities", "expected"),
    [
        ([ERROR] * 5, ERROR),
        ([ERROR] * 3 + [None] * 2, ERROR),
        ([None, ERROR], ERROR),  # half of them
        ([ERROR] + [None] * 2, WARNING),
        ([ERROR] * 2 + [None] * 3, WARNING),
        ([ERROR] + [WARNING] * 4, WARNING),
        ([WARNING] * 3 + [None] * 2, WARNING),
        ([WARNING] + [None] * 2, NOTE),
        ([WARNING] + [NOTE] * 4, NOTE),
        ([NOTE] + [None] * 4, NOTE),
    ],
)
def test_what_fewer_than_half_of_the_draws_have_is_one_step_milder(
    severities: list[Severity | None], expected: Severity
) -> None:
    (one,) = verdict(*([finding(severity=s)] if s else [] for s in severities))
    assert one.severity is expected
    assert one.draws == tuple(i for i, s in enumerate(severities) if s)


def test_a_fault_of_every_draw() -> None:
    (one,) = verdict([finding()], [finding()], [finding()])
    assert one.message == "seen at body.0; in 3 of 3 draws: it is the initialization and not the draw"


def test_a_fault_that_the_first_draw_does_not_have_says_which_has_it() -> None:
    (one,) = verdict([], [finding()], [finding()])
    assert one.message == (
        "seen at body.0; in 2 of 3 draws (first with seed 1): it is the initialization and not the draw"
    )


def test_an_unlucky_draw() -> None:
    (one,) = verdict([finding(severity=WARNING)], [], [finding(severity=ERROR)], [])
    assert facts([one]) == [("body.0", "warning", (0, 2))]
    assert one.message == "seen at body.0; an error in 1 of 4 draws (seed 2): an unlucky draw"


def test_what_follows_from_another_fault_counts_its_draws_only() -> None:
    assert verdict(*[[finding(root=False)]] * 2)[0].message == "seen at body.0; in 2 of 2 draws"


def test_what_the_factory_does_is_no_matter_of_draws() -> None:
    for code in ("IA504", "IA505"):
        (one,) = verdict(*[[finding(code=code, severity=WARNING)]] * 2)
        assert (one.message, one.draws) == ("seen at body.0", (0, 1))


def test_draws_that_are_one_are_told() -> None:
    (one,) = verdict(*[[finding("", NOTE, "IA506")]] * 3)
    assert (one.severity, one.message) == (WARNING, "seen at ; so these 3 draws are one")


def test_notes_say_nothing_of_draws() -> None:
    (one,) = verdict([finding(severity=NOTE)], [])
    assert one.message == "seen at body.0"


def test_a_fault_that_moves_is_still_the_initialization() -> None:
    found = verdict(*([finding(f"body.{i}")] for i in range(3)))
    assert facts(found) == [(f"body.{i}", "error", (i,)) for i in range(3)]
    assert found[1].message == (
        "seen at body.1; in 1 of 3 draws here (first with seed 1), in 3 of 3 at one place or another"
    )


def test_a_drift_whose_start_moves_along_its_layers_is_one_fault() -> None:
    (one,) = verdict(
        [finding("body.0", affected=["body.2", "body.4"])],
        [finding("body.2", affected=["body.4"])],
        [finding("body.0")],
    )
    assert facts([one]) == [("body.0", "error", (0, 1, 2))]


def test_two_faults_of_one_draw_stay_two() -> None:
    found = verdict(*[[finding("a", affected=["b"]), finding("b")]] * 2)
    assert facts(found) == [("a", "error", (0, 1)), ("b", "error", (0, 1))]


def test_the_order_is_that_of_a_single_report() -> None:
    found = verdict(
        [finding("a", WARNING, "IA201"), finding("b", ERROR, "IA102", root=False)],
        [finding("c", ERROR, "IA103"), finding("b", ERROR, "IA102", root=False), finding("a", WARNING, "IA201")],
    )
    assert [f.fqn for f in found] == ["c", "b", "a"]


finding_lists = st.lists(
    st.builds(
        finding, st.sampled_from("abc"), st.sampled_from(Severity), st.sampled_from(["IA101", "IA103"]),
        st.lists(st.sampled_from("abc"), max_size=2),
    ),
    max_size=4, unique_by=lambda f: (f.code, f.fqn),
)  # fmt: skip


@given(st.lists(finding_lists, min_size=2, max_size=5))
def test_nothing_is_lost_and_nothing_gets_worse(draws: list[list[Finding]]) -> None:
    found = verdict(*draws)
    assert sum(len(f.draws) for f in found) == sum(map(len, draws))
    for f in found:
        worst = min(g.severity.rank for seed in f.draws for g in draws[seed] if g.code == f.code)
        assert worst <= f.severity.rank <= worst + 2
    assert [f.severity.rank for f in found] == sorted(f.severity.rank for f in found)


@given(finding_lists, st.integers(2, 5))
def test_draws_that_agree_give_the_verdict_of_one(findings: list[Finding], count: int) -> None:
    found = verdict(*[findings] * count)
    assert sorted((f.code, f.fqn, f.severity.value) for f in found) == sorted(
        (f.code, f.fqn, f.severity.value) for f in findings
    )


def trace(seed: int, **fields: object) -> Trace:
    values = {"unjudged": (), **fields}
    environment = Environment("2.9", "cpu", "float32", seed)
    return Trace("Net", environment, "", "", "", True, (), (), (parameter("w", **values.pop("w", {})),), **values)  # type: ignore[arg-type, misc, call-overload]


class TestAuditDraws:
    def test_one_draw_is_reported_as_it_is(self) -> None:
        report = audit_draws([4], trace, lambda t: (finding(),))
        assert (report.seeds, report.findings, report.trace) == ((), (finding(),), trace(4))

    def test_the_trace_is_that_of_the_first(self) -> None:
        report = audit_draws([4, 5], trace, lambda t: ())
        assert (report.seeds, report.trace, report.target) == ((4, 5), trace(4), "Net")

    def test_what_was_learned_by_comparing_holds_for_every_draw(self) -> None:
        note = Unjudged("", "too large")
        drawn = {0: trace(0, w={"reproducible": False, "follows_seed": False}, unjudged=(note,)), 1: trace(1)}
        judged: list[Trace] = []
        audit_draws([0, 1], drawn.__getitem__, lambda t: (judged.append(t), ())[1])
        assert [t.parameters[0].reproducible for t in judged] == [False, False]
        assert [t.parameters[0].follows_seed for t in judged] == [False, False]
        assert [t.unjudged for t in judged] == [(note,), (note,)]

    def test_a_draw_that_fails_is_named(self) -> None:
        def probe(seed: int) -> Trace:
            if seed == 1:
                raise AuditError("forward", "no such head")
            return trace(seed)

        with pytest.raises(AuditError, match="with seed 1: no such head") as caught:
            audit_draws([0, 1], probe, lambda t: ())
        assert caught.value.stage == "forward"

    def test_the_score_is_the_median_and_knows_no_harm_in_not_repeating(self) -> None:
        severities = {0: NOTE, 1: WARNING, 2: ERROR}
        report = audit_draws([0, 1, 2], trace, lambda t: (finding(severity=severities[t.environment.seed]),))
        assert report.severity_score == 6
        assert audit_draws([0], trace, lambda t: (finding(severity=WARNING, code="IA504"),)).severity_score == 0


def he_or_tiny(bad: set[int]) -> type[nn.Module]:
    """A deep ReLU net whose draw is a good one but for the seeds of ``bad``."""

    class Net(nn.Sequential):
        def __init__(self) -> None:
            layers = [nn.Linear(32, 32) for _ in range(12)]
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
                if torch.initial_seed() in bad:
                    nn.init.normal_(layer.weight, std=1e-3)
            super().__init__(*(m for layer in layers for m in (layer, nn.ReLU())), nn.Linear(32, 4))

    return Net


class TestOnRealModels:
    inputs = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))

    def audit(self, bad: set[int], **options: int) -> Report:
        return initaudit.audit(he_or_tiny(bad), self.inputs, **options)

    def test_an_unlucky_draw_fails_nothing_and_is_told_with_its_seed(self) -> None:
        assert self.audit({4}, seed=4).verdict == "fail"
        report = self.audit({4}, seed=2, seeds=3)
        assert (report.verdict, report.seeds) == ("pass", (2, 3, 4))
        unlucky = [f for f in report.findings if f.severity is WARNING]
        assert unlucky
        assert all(f.draws == (4,) and "1 of 3 draws (seed 4): an unlucky draw" in f.message for f in unlucky)

    def test_a_bad_rule_fails(self) -> None:
        report = self.audit({0, 1, 2}, seeds=3)
        assert report.verdict == "fail"
        assert any("in 3 of 3 draws: it is the initialization" in f.message for f in report.findings)

    def test_a_good_one_passes(self) -> None:
        assert not [f for f in self.audit(set(), seeds=3).findings if f.severity is not NOTE]

    def test_the_assertion_takes_draws(self) -> None:
        initaudit.assert_initialized(he_or_tiny({1}), self.inputs, seeds=3)
        with pytest.raises(AssertionError, match="in 2 of 3 draws"):
            initaudit.assert_initialized(he_or_tiny({1, 2}), self.inputs, seeds=3)

    def test_an_instance_is_one_draw(self) -> None:
        with pytest.raises(UsageError, match="seeds is 2, but Linear is built already: pass a class or a function"):
            initaudit.audit(nn.Linear(4, 4), torch.randn(4, 4), seeds=2)
        with pytest.raises(UsageError, match="seeds is 0, expected a number of draws of 1 or more"):
            initaudit.audit(he_or_tiny(set()), self.inputs, seeds=0)

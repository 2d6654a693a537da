"""The severity score: nats of drift, continuous through the limits, and no less than what the findings say."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import initaudit
from initaudit.records import Finding, Report, Role, Severity
from initaudit.rules import diagnose
from initaudit.rules.drift import FAIL, WARN
from initaudit.rules.severity import severity_score
from tests.rules.factories import Net, stats
from tests.rules.nets import batch, net, scale


def chain(forward: float, backward: float, layers: int = 2, units: int = 10**9) -> Net:
    """A chain whose signal changes by a factor of ``forward`` from input to output, the gradient from end to start."""
    made = Net()
    x = made.input(stats=stats(units=units))
    for i in range(layers):
        size = forward ** ((i + 1) / layers)
        left = backward ** ((layers - 1 - i) / (layers - 1))
        x = made.layer(
            f"layers.{i}", x, stats=stats(size, units=units), gradient=stats(left, units=units), output=i == layers - 1
        )
    return made


def score(made: Net, *findings: Finding) -> float:
    return severity_score(made.trace(), findings)


def finding(severity: Severity) -> Finding:
    return Finding("IA000", "something", severity, "layers.0", "as measured")


class TestNats:
    def test_a_chain_that_changes_nothing_scores_nothing(self) -> None:
        assert score(chain(1, 1)) == 0

    @pytest.mark.parametrize("factor", [math.exp(4), math.exp(8)])
    def test_growth_of_rms_counts_twice_its_log(self, factor: float) -> None:
        assert score(chain(factor, 1)) == pytest.approx(2 * math.log(factor))
        assert score(chain(1, factor)) == pytest.approx(2 * math.log(factor))
        assert score(chain(1, 1 / factor)) == pytest.approx(2 * math.log(factor))

    def test_the_worse_of_signal_and_gradient_counts(self) -> None:
        assert score(chain(math.exp(2), math.exp(5))) == pytest.approx(10)

    def test_what_chance_does_to_a_narrow_network_harms_it_as_well(self) -> None:
        wide, narrow = (score(chain(math.exp(4), 1, layers=6, units=units)) for units in (10**9, 8))
        assert wide == narrow == pytest.approx(8)

    def test_through_normalizations_the_growth_of_the_gradient_counts(self) -> None:
        made = Net()
        x = made.input()
        for i in range(5):
            growth = math.exp(4 - i)  # of the gradient's rms, with the signal set anew at each
            x = made.layer(f"layers.{i}", x, gradient=stats(growth))
            x = made.op("layer_norm", Role.NORM, x)
        made.layer("head", x, output=True)
        assert score(made) == pytest.approx(5 * 2)

    @given(st.floats(-30, 30), st.floats(-30, 30))
    def test_never_negative_and_no_more_than_the_drift(self, forward: float, backward: float) -> None:
        found = score(chain(math.exp(forward / 2), math.exp(backward / 2), layers=3, units=64))
        assert 0 <= found <= max(abs(forward), abs(backward)) + 1e-9

    def test_nothing_that_arrives_is_infinite(self) -> None:
        dead = Net()
        x = dead.layer("a", dead.input(), stats=stats(0.0))
        dead.layer("b", x, stats=stats(0.0), gradient=stats(0.0), output=True)
        assert score(dead) == math.inf


class TestFindings:
    @pytest.mark.parametrize(
        ("severity", "level"), [(Severity.ERROR, FAIL), (Severity.WARNING, WARN), (Severity.NOTE, 0.0)]
    )
    def test_what_has_no_drift_weighs_what_a_drift_at_its_limit_would(self, severity: Severity, level: float) -> None:
        assert score(chain(1, 1), finding(severity)) == level

    def test_a_drift_beyond_that_counts_by_itself(self) -> None:
        assert score(chain(math.exp(10), 1), finding(Severity.ERROR)) == pytest.approx(20)


class TestOnModels:
    def test_a_healthy_network_is_near_nothing(self) -> None:
        assert initaudit.audit(net(8), batch()).severity_score < 3

    def test_it_rises_with_depth_and_passes_the_limits_with_the_verdict(self) -> None:
        scores = {}
        for depth in (4, 8, 16, 32):
            torch.manual_seed(0)
            layers = [m for _ in range(depth) for m in (nn.Linear(64, 64), nn.ReLU())]
            report = initaudit.audit(nn.Sequential(*layers, nn.Linear(64, 10)), batch(64))
            scores[depth] = report.severity_score
            assert (report.verdict == "fail") is (report.severity_score >= FAIL)
        assert sorted(scores.values()) == list(scores.values())
        assert scores[4] < FAIL < scores[16]

    @pytest.mark.parametrize("factor", [0.5, 2.0])
    def test_each_layer_adds_what_its_weight_deviates_by(self, factor: float) -> None:
        model = net(8, 256)
        for layer in model[2:-1:2]:
            scale(layer, factor)
        expected = 7 * 2 * abs(math.log(factor))
        assert initaudit.audit(model, batch(256)).severity_score == pytest.approx(expected, abs=3.5)

    def test_a_symmetric_network_fails_without_a_drift(self) -> None:
        model = net(3)
        for layer in model[::2]:
            nn.init.constant_(layer.weight, 0.05)
        assert initaudit.audit(model, batch()).severity_score >= FAIL

    def test_what_is_not_selected_gives_no_level(self) -> None:
        model = net(3)
        nn.init.constant_(model[2].weight, 0.05)
        whole, part = (initaudit.audit(model, batch(), select=codes) for codes in (None, ["IA4"]))
        assert part.severity_score < WARN <= whole.severity_score


class TestReport:
    def test_it_is_in_the_json(self) -> None:
        report = initaudit.audit(net(2), batch())
        assert json.loads(report.to_json())["audits"][0]["severity_score"] == report.severity_score

    def test_without_a_trace_there_is_none(self) -> None:
        assert Report("model.py::Net").to_dict()["severity_score"] is None

    def test_it_is_made_of_the_reports_own_findings(self) -> None:
        report = initaudit.audit(net(4), batch())
        assert report.trace is not None
        assert report.severity_score == severity_score(report.trace, diagnose(report.trace))

from dataclasses import replace

import pytest
import torch
from torch import nn

import initaudit
from initaudit.rules import nonfinite_parameters
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.never_written import RULE
from tests.rules.factories import chain, constant, parameter, parameters_only


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


@pytest.mark.parametrize(("low", "high"), [(-3e38, 1.0), (0.0, 2e10), (0.0, 1e-38), (-1e-41, 1e-42)])
def test_values_of_old_memory(low: float, high: float) -> None:
    odd = replace(parameter("scale.weight"), min=low, max=high)
    (one,) = found(parameters_only(parameter("a.weight"), odd))
    assert one.fqn == "scale"
    assert f"from {low:.3g} to {high:.3g}" in one.message


def test_values_that_differ_between_two_builds() -> None:
    flow = chain(parameter("0.weight"), parameter("2.weight", unwritten=True))
    (one,) = found(flow)
    assert (one.fqn, one.layer) == ("2", flow.trace.layers[1])
    assert "built in memory that torch had filled with NaN, it still is NaN" in one.message


def test_all_of_them_are_one_finding() -> None:
    flow = parameters_only(*(parameter(f"{n}.weight", unwritten=True) for n in "abc"))
    (one,) = found(flow)
    assert (one.fqn, one.affected) == ("a", ("b", "c"))
    assert one.message.endswith("(also b.weight, c.weight)")


def test_ordinary_values_and_constants_are_silent() -> None:
    written = [parameter("a.weight"), constant("b.weight"), constant("mask", (4,), -1e30), parameter("c", std=1e-6)]
    assert found(parameters_only(*written)) == []


def test_a_bare_parameter_is_named_by_its_own_path() -> None:
    assert [o.fqn for o in found(parameters_only(parameter("block.pos_embed", unwritten=True)))] == ["block.pos_embed"]


def test_it_is_not_reported_as_nonfinite_as_well() -> None:
    flow = parameters_only(parameter("a.weight", max=1e38, nonfinite=3))
    assert len(found(flow)) == 1
    assert list(nonfinite_parameters.RULE.check(flow)) == []


@pytest.mark.parametrize("size", [1e160, 1e200, 1e290])
def test_numbers_whose_squares_are_beyond_a_float_do_not_break_an_audit(size: float) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(size)
        model[0].bias.mul_(size)
    report = initaudit.audit(model, torch.randn(32, 64, dtype=torch.float64))
    assert "IA501" in {finding.code for finding in report.findings}
    assert str(report)

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initaudit
from initaudit.records import Parameter, Role, Severity
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.no_gradient import RULE
from tests.rules.factories import Net, Wired, chain, constant, parameter, stats


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def silent(name: str, **fields: object) -> Parameter:
    return replace(parameter(f"{name}.weight"), grad_rms=None, **fields)  # type: ignore[arg-type]


def detached(*names: str, **fields: object) -> Net:
    """names -> detach -> head, where the names got no gradient."""
    net = Net()
    x = net.input()
    for name in names:
        x = net.layer(name, x, weight=silent(name, **fields), gradient=None)
    x = net.op("detach", Role.VIEW, x, stats=None, gradient=None)
    net.output(net.layer("head", x))
    return net


def test_a_detached_encoder() -> None:
    (one,) = found(detached("encoder.0", "encoder.1").flow())
    assert (one.fqn, one.affected, one.severity) == ("encoder.1", ("encoder.0",), None)
    assert "it stops at `detach`" in one.message


def test_two_cuts_are_two_findings() -> None:
    net = Net()
    x = net.input()
    ends = []
    for name in ("a", "b"):
        y = net.layer(name, x, weight=silent(name), gradient=None)
        ends.append(net.op("detach", Role.VIEW, y, stats=None, gradient=None, scope=name))
    net.output(net.layer("head", net.add(*ends)))
    assert [o.fqn for o in found(net.flow())] == ["a", "b"]


def test_the_same_cut_in_every_block_is_one_finding() -> None:
    net = Net()
    x = net.input()
    for i in range(3):
        y = net.layer(f"h.{i}.query", x, weight=silent(f"h.{i}.query"), gradient=None)
        y = net.op("detach", Role.VIEW, y, stats=None, gradient=None, scope=f"h.{i}.attn")
        x = net.layer(f"h.{i}.out", y)
    net.output(x)
    (one,) = found(net.flow())
    assert (one.fqn, one.affected) == ("h.2.query", ("h.1.query", "h.0.query"))
    assert "it stops at `detach` in h.*.attn" in one.message


def test_a_healthy_net_is_silent() -> None:
    assert found(chain(parameter("0.weight"), parameter("2.weight"))) == []


def test_frozen_parts_are_a_note_that_says_so() -> None:
    (one,) = found(detached("encoder", requires_grad=False).flow())
    assert (one.fqn, one.severity) == ("encoder", Severity.NOTE)
    assert one.message.startswith("frozen (`requires_grad=False`)")


def test_a_part_that_no_output_depends_on_is_a_note() -> None:
    net = Net()
    x = net.layer("body", net.input())
    net.layer("pooler", x, weight=silent("pooler"), gradient=None)
    net.output(net.layer("head", x))
    (one,) = found(net.flow())
    assert (one.fqn, one.severity) == ("pooler", Severity.NOTE)


def test_an_output_that_the_loss_does_not_use_is_a_note() -> None:
    net = Net()
    x = net.layer("body", net.input())
    net.output(net.layer("auxiliary", x, weight=silent("auxiliary"), gradient=None))
    net.output(net.layer("head", x))
    assert [(o.fqn, o.severity) for o in found(net.flow())] == [("auxiliary", Severity.NOTE)]


def test_an_output_that_is_a_view_counts_as_what_it_shows() -> None:
    net = detached("encoder")
    net.ops[-1] = replace(net.ops[-1], output=False)
    net.output(net.op("transpose", Role.VIEW, net.ops[-1].id, stats=None, gradient=None))
    assert [(o.fqn, o.severity) for o in found(net.flow())] == [("encoder", None)]


def test_what_was_never_called_is_left_to_the_rule_of_that() -> None:
    net = Net()
    net.output(net.layer("head", net.input()))
    net.parameters.append(silent("unused"))
    assert found(net.flow()) == []


def test_without_a_backward_pass_nothing_is_said() -> None:
    assert found(chain(silent("0"), silent("2"))) == []


def test_gradients_of_zero_behind_zeros_are_one_note_that_names_them_and_says_when_they_come() -> None:
    net = Wired()
    x = net.input()
    for i in (0, 2):
        weight = replace(parameter(f"{i}.weight"), grad_rms=0.0)
        x = net.relu(net.layer(str(i), x, weight=weight, gradient=stats(0.0)), gradient=stats(0.0))
    net.output(net.layer("4", x, weight=constant("4.weight"), stats=stats(0.0)))
    (one,) = found(net.flow())
    assert (one.fqn, one.affected, one.severity) == ("0", ("2",), Severity.NOTE)
    assert one.message == "the gradient is zero at the first step, behind the zeros of 4, and comes by step 1: 0, 2"


def test_gradients_of_zero_for_another_reason_are_one_note() -> None:
    weights = [replace(parameter(f"{i}.weight"), grad_rms=0.0) for i in (0, 2)]
    (one,) = found(chain(*weights, parameter("4.weight")))
    assert (one.fqn, one.affected, one.severity) == ("0", ("2",), Severity.NOTE)
    assert one.message == "the gradient is zero throughout on this input: 0, 2"


def test_what_is_made_after_the_shape_of_a_value_does_not_depend_on_it() -> None:
    net = Net()
    x = net.input()
    y = net.layer("query", x, weight=silent("query"), gradient=None)
    zeros = net.op("zeros_like", Role.INPUT, y, stats=None, gradient=None, moving=False)
    net.output(net.layer("head", net.add(x, zeros)))
    assert [(o.fqn, o.severity) for o in found(net.flow())] == [("query", Severity.NOTE)]


class Quantizer(nn.Module):
    """encoder -> nearest code -> decoder, with several ways for the gradient to get by, or none."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.encoder, self.codes, self.decoder = nn.Linear(8, 8), nn.Embedding(16, 8), nn.Linear(8, 8)
        self.way = way

    def forward(self, x: Tensor) -> Any:
        z = self.encoder(x)
        index = torch.cdist(z, self.codes.weight).argmin(-1)
        q = self.codes(index)
        if self.way == "straight through":
            return self.decoder(z + (q - z).detach())
        if self.way == "returned loss":
            return self.decoder(q.detach()), F.mse_loss(q, z.detach()) + F.mse_loss(z, q.detach())
        if self.way == "returned codes":
            return self.decoder(q), index
        return self.decoder(q if self.way == "argmin" else z.detach())


def told(model: nn.Module) -> list[tuple[str, Severity, str]]:
    torch.manual_seed(0)
    report = initaudit.audit(model, torch.randn(32, 8))
    return [(f.fqn, f.severity, f.message.rpartition("; ")[2]) for f in report.findings if f.code == "IA203"]


@pytest.mark.parametrize(
    ("way", "fqn", "reason"),
    [
        ("straight through", "codes", "the straight-through estimator"),
        ("returned loss", "codes", "a loss that the model returns reaches it without the cut"),
        ("returned codes", "encoder", "whole numbers, which the model returns as well"),
    ],
)
def test_a_cut_that_is_meant_is_a_note_that_says_by_what(way: str, fqn: str, reason: str) -> None:
    (one,) = told(Quantizer(way))
    assert one[:2] == (fqn, Severity.NOTE)
    assert reason in one[2]


@pytest.mark.parametrize("way", ["argmin", "detach"])
def test_a_cut_with_no_other_way_is_a_warning(way: str) -> None:
    assert ("encoder", Severity.WARNING) in [(fqn, severity) for fqn, severity, _ in told(Quantizer(way))]


class LengthPredictor(nn.Module):
    """Detached in front of an auxiliary head, on purpose: everything has its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.length, self.decoder = nn.Linear(8, 8), nn.Linear(8, 1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.decoder(h), self.length(h.detach())


def test_a_head_on_a_detached_value_is_silent() -> None:
    assert told(LengthPredictor()) == []


class Forces(nn.Module):
    """The negative gradient of an energy by the positions: the last bias of the energy is no part of it."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.cut = nn.Linear(16, 16), nn.Linear(16, 1), cut

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        energy = self.last(torch.tanh(self.first(x))).sum()
        (forces,) = torch.autograd.grad(energy, x, create_graph=not self.cut)
        return -forces if not self.cut else F.linear(x, self.last.weight) * energy.detach()


def test_a_bias_that_the_derivative_has_lost_is_not_cut_off() -> None:
    torch.manual_seed(0)
    found = [f for f in initaudit.audit(Forces(), torch.randn(32, 16)).findings if f.code == "IA203"]
    assert [(f.fqn, f.severity) for f in found] == [("last", Severity.NOTE)]
    assert "no output that was differentiated depends on it" in found[0].message


def test_an_energy_that_is_detached_is_cut_off() -> None:
    torch.manual_seed(0)
    found = [f for f in initaudit.audit(Forces(cut=True), torch.randn(32, 16)).findings if f.code == "IA203"]
    assert {f.severity for f in found} == {Severity.WARNING}
    assert "last" in {name for f in found for name in (f.fqn, *f.affected)}, "its weight has a gradient from elsewhere"

"""Layers that a model runs and does not hold (IA903)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.probe.probing import Call, audit, codes, randn


def through(m: Call, x: Tensor) -> Tensor:
    for block in m.blocks:
        x = torch.relu(block(x))
    return m.head(x)


def test_layers_in_a_plain_list_are_told_by_name() -> None:
    model = Call(through, blocks=[nn.Linear(8, 8), nn.Linear(8, 8)], head=nn.Linear(8, 2))
    report = audit(model, randn(16, 8))
    (finding,) = (f for f in report.findings if f.code == "IA903")
    names = ["blocks[0].weight", "blocks[0].bias", "blocks[1].weight", "blocks[1].bias"]
    assert [finding.fqn, *finding.affected] == names
    assert finding.severity.value == "warning"
    assert all(name in finding.message for name in names)


def test_a_module_list_is_not() -> None:
    blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    assert "IA903" not in codes(audit(Call(through, blocks=blocks, head=nn.Linear(8, 2)), randn(16, 8)))


def test_what_is_frozen_or_made_on_the_way_is_not() -> None:
    teacher = [nn.Linear(8, 8).requires_grad_(False)]

    def forward(m: Call, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        scale = torch.ones(8, requires_grad=True)
        return m.head(m.hidden[0](x) * scale)

    assert "IA903" not in codes(audit(Call(forward, hidden=teacher, head=nn.Linear(8, 2)), randn(16, 8)))


def test_a_weight_that_is_made_anew_at_each_call_is_told() -> None:
    model = Call(lambda m, x: m.head(x) @ nn.Parameter(torch.eye(2)), head=nn.Linear(8, 2))
    assert "IA903" in codes(audit(model, randn(16, 8)))


def test_a_loss_with_weights_of_its_own_is_not() -> None:
    metric = nn.Linear(2, 1)
    report = audit(Call(lambda m, x: m.head(x), head=nn.Linear(8, 2)), randn(16, 8), loss=lambda y: metric(y).mean())
    assert "IA903" not in codes(report)
    assert metric.weight.grad is None


def test_a_tensor_in_an_attribute_and_one_from_elsewhere() -> None:
    elsewhere = torch.ones(8, requires_grad=True)
    model = Call(lambda m, x: m.head(x * m.scale["a"] * elsewhere), head=nn.Linear(8, 2))
    model.scale = {"a": torch.ones(8, requires_grad=True)}  # type: ignore[assignment]
    (finding,) = (f for f in audit(model, randn(16, 8)).findings if f.code == "IA903")
    assert [finding.fqn, *finding.affected] == ["scale['a']", "a tensor of shape [8]"]

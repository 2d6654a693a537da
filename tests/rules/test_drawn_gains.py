"""Gains of normalizations that a linear layer's initializer wrote."""

import pytest
import torch
from torch import nn

import initaudit
from initaudit.records import Finding
from initaudit.rules import diagnose
from initaudit.target.load import Target
from initaudit.weights_only import read_weights


class RMSNorm(nn.Module):
    """Written by hand, as many models have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def drawn(model: nn.Module) -> list[Finding]:
    return [f for f in initaudit.audit(model, torch.randn(32, 64)).findings if f.code == "IA309"]


def net(norm: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 64), norm(64), nn.ReLU(), nn.Linear(64, 64), norm(64), nn.ReLU(), nn.Linear(64, 8)
    )


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm, RMSNorm])
def test_gains_around_zero_are_one_warning_with_a_cure_that_runs(norm: type[nn.Module]) -> None:
    model = net(norm)
    assert not drawn(model)
    nn.init.normal_(model[1].weight, std=0.02)
    nn.init.normal_(model[4].weight, std=0.02)
    (finding,) = drawn(model)
    assert (finding.fqn, finding.affected[0], finding.severity.value) == ("1", "4", "warning")
    assert "also 4" in finding.message
    assert finding.advice is not None
    exec(finding.advice.code, {"nn": nn, "m": model})
    assert bool((model[1].weight == 1).all())
    assert [f.fqn for f in drawn(model)] == ["4"]


def test_gains_around_one_and_constant_gains_are_none() -> None:
    model = net(nn.BatchNorm1d)
    nn.init.normal_(model[1].weight, mean=1.0, std=0.02)
    nn.init.constant_(model[4].weight, 0.1)
    assert not drawn(model)


class Skip(nn.Module):
    """A state space in short: a norm's output goes through a layer, and beside it times a vector that is drawn."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.mix, self.head, self.alone = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 8), alone
        self.D = nn.Parameter(torch.randn(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.norm(x)
        return self.head(torch.relu(self.D * u if self.alone else self.mix(u) + self.D * u))


def test_a_skip_beside_what_reads_the_norm_as_it_is_is_no_gain() -> None:
    assert not drawn(Skip(alone=False))
    assert [f.fqn for f in drawn(Skip(alone=True))] == ["D"]


def of_weights(model: nn.Module) -> list[str]:
    trace = read_weights(Target("m", "m", lambda: model, is_factory=False))
    return [f.fqn for f in diagnose(trace) if f.code == "IA309"]


def test_without_a_run_gains_around_zero_are_judged_where_the_model_is_fresh() -> None:
    model = net(nn.BatchNorm1d)
    nn.init.normal_(model[1].weight, std=0.02)
    nn.init.normal_(model[4].weight, std=0.02)
    assert of_weights(model) == ["1"]  # the matrices are as torch leaves them
    for layer in (model[0], model[3], model[6]):
        nn.init.normal_(layer.weight, std=0.02)
    assert of_weights(model) == ["1"]


def test_without_a_run_gains_of_a_trained_model_may_scatter_anywhere() -> None:
    model = net(RMSNorm)  # used as 1 + w, say: nobody tells
    for number, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.0216 + 0.0013 * number)
    assert of_weights(model) == []
    nn.init.ones_(model[4].weight)
    assert of_weights(model) == ["1"]

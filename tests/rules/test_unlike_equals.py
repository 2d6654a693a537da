"""The odd one out among sister blocks is named; stacks that differ on purpose are left alone."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import initaudit
from initaudit.records import Finding


class Block(nn.Module):
    """A pre-norm feed-forward block."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 128), nn.Linear(128, 64)
        for layer in (self.up, self.down):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def stack(depth: int = 6, std: Callable[[int], float] = lambda i: 0.02) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[Block(std(i)) for i in range(depth)], nn.LayerNorm(64), nn.Linear(64, 10))


def odd(model: nn.Module) -> list[Finding]:
    return [f for f in initaudit.audit(model, torch.randn(16, 64)).findings if f.code == "IA503"]


def reset_block(model: nn.Sequential) -> None:
    model[2].up.reset_parameters()
    model[2].down.reset_parameters()


def large_gain(model: nn.Sequential) -> None:
    nn.init.constant_(model[2].norm.weight, 10.0)


def twice(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].up.weight.mul_(2)


def noisy_bias(model: nn.Sequential) -> None:
    nn.init.normal_(model[2].up.bias, std=0.5)


def zero_gain(model: nn.Sequential) -> None:
    nn.init.zeros_(model[2].norm.weight)


@pytest.mark.parametrize("depth", [3, 6])
@pytest.mark.parametrize(
    ("fault", "where"),
    [(reset_block, "2.up"), (large_gain, "2.norm"), (twice, "2.up"), (noisy_bias, "2.up"), (zero_gain, "2.norm")],
)
def test_the_odd_one_is_named(depth: int, fault: Callable[[nn.Sequential], None], where: str) -> None:
    model = stack(depth)
    assert not odd(model)
    fault(model)
    (finding,) = odd(model)
    assert (finding.fqn, finding.severity.value) == (where, "warning")


def test_the_cure_is_what_the_equals_have() -> None:
    model = stack()
    reset_block(model)
    (finding,) = odd(model)
    assert finding.affected == ("2.down",)
    assert finding.advice is not None
    assert finding.advice.std == pytest.approx(0.02, rel=0.05)
    exec(finding.advice.code, {"nn": nn, "m": model})
    assert model[2].up.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_of_two_the_one_that_keeps_to_the_habit_of_the_model_is_right() -> None:
    model = stack(2)
    nn.init.normal_(model[-1].weight, std=0.02)
    model[1].up.reset_parameters()
    (finding,) = odd(model)
    assert finding.fqn == "1.up"


@pytest.mark.parametrize("std", [lambda i: 0.02 / (1 + i) ** 0.5, lambda i: 0.02 if i % 2 else 0.1])
def test_scales_that_differ_on_purpose_are_left_alone(std: Callable[[int], float]) -> None:
    assert not odd(stack(8, std))


@pytest.mark.parametrize("seed", range(5))
def test_chance_in_small_parameters_is_no_fault(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.ModuleList(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4)) for _ in range(8))

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = x + block(x)
            return x

    report = initaudit.audit(Chain(), torch.randn(16, 4))
    assert "IA503" not in {f.code for f in report.findings}


def test_a_first_layer_with_its_own_gain_is_no_odd_one() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(128, 128) for _ in range(8)]
    for i, layer in enumerate(layers):
        nn.init.normal_(layer.weight, std=(2**0.5 if i else 1.0) / 128**0.5)
        nn.init.zeros_(layer.bias)
    model = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
    assert not [f for f in initaudit.audit(model, torch.randn(16, 128)).findings if f.severity.value != "note"]

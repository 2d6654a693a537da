"""One network in many spellings: the findings, the layers and every figure are the same to the last bit."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initaudit
from initaudit.records import Finding, Layer, Report

DEPTH, WIDTH = 12, 64
INPUTS = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(1))


class Stack(nn.Module):
    """``DEPTH`` linear layers, each but the last followed by ``self.activate``."""

    def __init__(self, activate: Callable[[Tensor], Tensor], *, bad_layer: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.activate = activate
        initialize(self.layers, bad_layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activate(layer(x))
        return self.layers[-1](x)


def initialize(layers: nn.ModuleList | list[nn.Linear], bad_layer: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    for i, layer in enumerate(layers):
        with torch.no_grad():
            bound = 1 / WIDTH**0.5 if bad_layer is None else (6 / WIDTH) ** 0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
            if i == bad_layer:
                layer.bias.fill_(-8.0)


class OwnActivations(Stack):
    """A ReLU module of its own behind each layer."""

    def __init__(self, *, bad_layer: int | None = None, inplace: bool = False) -> None:
        super().__init__(torch.relu, bad_layer=bad_layer)
        self.activations = nn.ModuleList(nn.ReLU(inplace=inplace) for _ in range(DEPTH - 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer, activate in zip(self.layers[:-1], self.activations, strict=True):
            x = activate(layer(x))
        return self.layers[-1](x)


class InSequential(nn.Module):
    def __init__(self, *, bad_layer: int | None = None) -> None:
        super().__init__()
        linear = [nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)]
        initialize(linear, bad_layer)
        steps: list[nn.Module] = []
        for layer in linear:
            steps += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*steps[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


SPELLINGS: dict[str, Callable[..., nn.Module]] = {
    "functional": lambda **k: Stack(F.relu, **k),
    "functional in place": lambda **k: Stack(lambda x: F.relu(x, inplace=True), **k),
    "torch.relu": lambda **k: Stack(torch.relu, **k),
    "torch.relu_": lambda **k: Stack(torch.relu_, **k),
    "method": lambda **k: Stack(lambda x: x.relu(), **k),
    "method in place": lambda **k: Stack(lambda x: x.relu_(), **k),
    "one shared module": lambda **k: Stack(nn.ReLU(), **k),
    "one shared module in place": lambda **k: Stack(nn.ReLU(inplace=True), **k),
    "a module each": OwnActivations,
    "a module each, in place": lambda **k: OwnActivations(inplace=True, **k),
    "clamp": lambda **k: Stack(lambda x: x.clamp(min=0), **k),
    "clamp in place": lambda **k: Stack(lambda x: x.clamp_(min=0), **k),
    "clamp_min": lambda **k: Stack(lambda x: x.clamp_min(0), **k),
    "times mask": lambda **k: Stack(lambda x: x * (x > 0), **k),
    "where": lambda **k: Stack(lambda x: torch.where(x > 0, x, 0.0), **k),
    "where zeros_like": lambda **k: Stack(lambda x: torch.where(x > 0, x, torch.zeros_like(x)), **k),
    "maximum": lambda **k: Stack(lambda x: torch.maximum(x, torch.zeros(())), **k),
    "maximum zeros_like": lambda **k: Stack(lambda x: torch.maximum(x, torch.zeros_like(x)), **k),
    "threshold": lambda **k: Stack(lambda x: F.threshold(x, 0.0, 0.0), **k),
    "masked_fill": lambda **k: Stack(lambda x: x.masked_fill(x < 0, 0.0), **k),
}
# At exactly zero torch's own relu and clamp disagree on the derivative; no pre-activation here is exactly zero.


def audit(model: nn.Module) -> Report:
    return initaudit.audit(model, INPUTS.clone())


def plain_layer(layer: Layer) -> Layer:
    """Without op ids, which count the calls of a spelling, and the name of the function, which is how it is spelled."""
    calls = tuple(
        replace(
            call,
            op=0,
            input_op=None,
            activation_op=None,
            nonlinearity=call.nonlinearity
            and replace(call.nonlinearity, name="", torch_name=None, negative_slope=None),
        )
        for call in layer.calls
    )
    return replace(layer, calls=calls)


def plain_finding(finding: Finding) -> tuple[object, ...]:
    return (
        finding.code,
        finding.severity,
        finding.fqn,
        finding.observed,
        finding.limit,
        finding.root_cause,
        finding.affected,
        finding.advice and (finding.advice.std, finding.advice.gain),
    )


@pytest.fixture(scope="module")
def references() -> dict[int | None, Report]:
    return {bad: audit(Stack(F.relu, bad_layer=bad)) for bad in (None, 5)}


@pytest.mark.parametrize("bad_layer", [None, 5])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_gives_the_same_report(
    spelling: str, bad_layer: int | None, references: dict[int | None, Report]
) -> None:
    reference = references[bad_layer]
    report = audit(SPELLINGS[spelling](bad_layer=bad_layer))
    assert [plain_finding(f) for f in report.findings] == [plain_finding(f) for f in reference.findings]
    assert [plain_layer(layer) for layer in report.layers] == [plain_layer(layer) for layer in reference.layers]
    assert [layer.nonlinearity and layer.nonlinearity.name for layer in report.layers] == ["relu"] * (DEPTH - 1) + [
        None
    ]


@pytest.mark.parametrize("bad_layer", [None, 5])
def test_sequential_has_other_names_and_the_same_figures(
    bad_layer: int | None, references: dict[int | None, Report]
) -> None:
    reference = references[bad_layer]
    report = audit(InSequential(bad_layer=bad_layer))

    def renamed(fqn: str) -> str:
        return f"layers.{2 * int(fqn.removeprefix('layers.'))}"

    for found, expected in zip(report.findings, reference.findings, strict=True):
        assert found.fqn == renamed(expected.fqn)
        assert found.affected == tuple(renamed(fqn) for fqn in expected.affected)
        assert (found.code, found.observed, found.limit) == (expected.code, expected.observed, expected.limit)
    for found, expected in zip(report.layers, reference.layers, strict=True):
        assert found.fqn == renamed(expected.fqn)
        assert plain_layer(found).calls == plain_layer(expected).calls


def test_the_two_reference_nets_are_faulty(references: dict[int | None, Report]) -> None:
    """Else the comparisons above would compare empty lists."""
    assert {f.code for f in references[None].findings} >= {"IA101", "IA201"}
    assert ("IA103", "layers.5") in {(f.code, f.fqn) for f in references[5].findings}


GELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": lambda x: F.gelu(x, approximate="tanh"),
    "module": nn.GELU(approximate="tanh"),
    "by hand": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3))),
    "by hand, torch.pow": lambda x: x.mul(0.5).mul(
        torch.tanh((x + 0.044715 * torch.pow(x, 3)) * 0.7978845608028654).add(1.0)
    ),
}


@pytest.mark.parametrize("spelling", list(GELUS)[1:])
def test_every_spelling_of_tanh_gelu_gives_the_same_figures_to_rounding(spelling: str) -> None:
    reference, report = audit(Stack(GELUS["functional"])), audit(Stack(GELUS[spelling]))
    assert [(f.code, f.fqn, f.affected) for f in report.findings] == [
        (f.code, f.fqn, f.affected) for f in reference.findings
    ]
    for found, expected in zip(report.findings, reference.findings, strict=True):
        assert found.observed == pytest.approx(expected.observed, rel=1e-3)
    for layer in report.layers[:-1]:
        assert layer.nonlinearity is not None
        assert layer.nonlinearity.name.startswith("gelu")
        assert layer.nonlinearity.gain == pytest.approx(1.5335805, rel=1e-5)

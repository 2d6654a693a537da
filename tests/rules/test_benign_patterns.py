"""Zeros on purpose and by mistake: the audit's word on each against what gradient descent really does to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initaudit
from initaudit import Severity
from initaudit.probe.run import probe
from initaudit.rules.liveness import Liveness
from tests.rules.zeros import (
    AdaLN,
    Attention,
    ControlNet,
    Fixup,
    GatedFeedForward,
    Lora,
    NormChain,
    Residual,
    TwoGates,
    first_gradients,
    linear,
    stack,
)

Make = Callable[[], nn.Module]

# What is named, and a word of the note that says what it is.
BENIGN: dict[str, tuple[Make, dict[str, str]]] = {
    "last layer of a branch": (lambda: Residual(last=True), {"branch.2": "end of a residual branch"}),
    "gamma of a branch": (lambda: Residual(gamma=0.0), {"norm": "a gain of zero closes a residual branch"}),
    "ReZero": (lambda: Residual(gate=0.0), {"gate": "a learned scale of zero"}),
    "LayerScale": (lambda: Residual(gate=1e-6), {"gate": "lets its residual branch start with next to nothing"}),
    "LoRA, B zero": (lambda: Lora(b=True), {"b": "one factor of a product of weights"}),
    "LoRA, A zero": (lambda: Lora(a=True), {"a": "residual branch"}),
    "LoRA merged, B zero": (lambda: Lora(b=True, merged=True), {"b": "one factor of a product of weights"}),
    "LoRA merged, A zero": (lambda: Lora(a=True, merged=True), {"a": "one factor of a product of weights"}),
    "adaLN-zero": (AdaLN, {"modulation": "a gate of zeros"}),
    "adaLN-zero and zero head": (lambda: AdaLN(head=True), {"modulation": "gate of zeros", "head": "an output layer"}),
    "two gates": (TwoGates, {"modulation": "a gate of zeros"}),
    "query": (lambda: Attention(query=True), {"query": "product with another signal"}),
    "key, attention by hand": (lambda: Attention(key=True, fused=False), {"key": "product with another signal"}),
    "ControlNet": (ControlNet, {"hint": "residual branch", "out": "residual branch"}),
    "gated half": (lambda: GatedFeedForward(gate=True), {"gate": "a gate of zeros"}),
    "gated other half": (lambda: GatedFeedForward(up=True), {"up": "a gate of zeros"}),
    "Fixup": (Fixup, {"last.0": "residual branch", "head": "an output layer of zeros"}),
    "head": (lambda: stack(nn.ReLU, False, True), {"2": "an output layer of zeros"}),
}
# What is named first.
HARMFUL: dict[str, tuple[Make, str]] = {
    "LoRA, both zero": (lambda: Lora(a=True, b=True), "a"),
    "LoRA merged, both zero": (lambda: Lora(a=True, b=True, merged=True), "b"),
    "gate and last layer": (lambda: Residual(last=True, gate=0.0), "branch.2"),
    "gate and gamma": (lambda: Residual(gamma=0.0, gate=0.0), "norm"),
    "adaLN-zero, and its branch": (lambda: AdaLN(body=True), "modulation"),
    "one of two gates, and its branch": (lambda: TwoGates(body=True), "one"),
    "query and key": (lambda: Attention(query=True, key=True), "query"),
    "query and key, by hand": (lambda: Attention(query=True, key=True, fused=False), "query"),
    "both layers of a branch": (lambda: Residual(first=True, last=True), "branch.0"),
    "hidden layer, relu": (lambda: stack(nn.ReLU, False, True, False), "2"),
    "hidden layer, relu6": (lambda: stack(nn.ReLU6, False, True, False), "2"),
    "everything, relu": (lambda: stack(nn.ReLU, True, True, True), "0"),
    "gamma without a way around, relu": (lambda: NormChain(F.relu), "norm"),
}
# Nothing passes at the start, but the first steps mend it.
RECOVERING: dict[str, tuple[Make, str]] = {
    "hidden layer, tanh": (lambda: stack(nn.Tanh, False, True, False), "2"),
    "hidden layer, gelu": (lambda: stack(nn.GELU, False, True, False), "2"),
    "hidden layer, leaky relu": (lambda: stack(nn.LeakyReLU, False, True, False), "2"),
    "gamma without a way around, tanh": (lambda: NormChain(torch.tanh), "norm"),
}
ALL: dict[str, Make] = {name: case[0] for name, case in {**BENIGN, **HARMFUL, **RECOVERING}.items()}


def made(make: Make) -> nn.Module:
    torch.manual_seed(0)
    return make()


def batch() -> torch.Tensor:
    return torch.randn(32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("case", ALL)
def test_the_graph_tells_when_each_parameter_gets_its_first_gradient(case: str) -> None:
    model = made(ALL[case])
    truth = first_gradients(model, batch())
    steps = Liveness(probe(model, (batch(),), {})).first_step
    assert {name: steps.get(name) for name in truth} == truth


@pytest.mark.parametrize("case", HARMFUL)
def test_stuck_is_what_gradient_descent_never_moves(case: str) -> None:
    model = made(HARMFUL[case][0])
    truth = first_gradients(model, batch())
    assert Liveness(probe(model, (batch(),), {})).stuck == {name for name, step in truth.items() if step is None}


@pytest.mark.parametrize("case", BENIGN)
def test_what_is_meant_is_a_note_that_says_what_it_is(case: str) -> None:
    make, named = BENIGN[case]
    report = initaudit.audit(made(make), batch())
    assert [f for f in report.findings if f.severity is not Severity.NOTE] == []
    notes = {f.fqn: f.message for f in report.findings if f.code == "IA304"}
    assert notes.keys() == named.keys()
    assert all(word in notes[fqn] for fqn, word in named.items())


@pytest.mark.parametrize("case", HARMFUL)
def test_what_never_moves_is_an_error_at_the_zeros(case: str) -> None:
    make, named = HARMFUL[case]
    report = initaudit.audit(made(make), batch())
    first = report.findings[0]
    assert (first.code, first.severity, first.fqn, first.root_cause) == ("IA304", Severity.ERROR, named, True)
    assert report.verdict == "fail"
    assert [f.fqn for f in report.findings if f.severity is Severity.ERROR and f.root_cause] == [named]


@pytest.mark.parametrize("case", RECOVERING)
def test_what_lets_nothing_through_but_recovers_is_a_warning(case: str) -> None:
    make, named = RECOVERING[case]
    report = initaudit.audit(made(make), batch())
    (found,) = [f for f in report.findings if f.code == "IA304"]
    assert (found.severity, found.fqn) == (Severity.WARNING, named)
    assert "the first step changes it" in found.message


def test_the_pair_is_named_together() -> None:
    report = initaudit.audit(made(lambda: Residual(last=True, gate=0.0)), batch())
    assert report.findings[0].affected == ("gate",)
    assert "multiplied with is zero as well" in report.findings[0].message


def test_the_cure_of_a_gain_of_zero_is_a_gain_of_one() -> None:
    model = made(lambda: NormChain(F.relu))
    advice = initaudit.audit(model, batch()).findings[0].advice
    assert advice is not None
    exec(advice.code, {"nn": nn, "m": model})
    assert initaudit.audit(model, batch()).verdict == "pass"


def test_the_note_on_gradients_says_when_they_come() -> None:
    report = initaudit.audit(made(lambda: AdaLN(head=True)), batch())
    (note,) = [f for f in report.findings if f.code == "IA203"]
    assert "behind the zeros of modulation, head, and comes by step 2: condition, modulation, body" in note.message


def test_a_frozen_zero_factor_is_no_fault_of_the_others() -> None:
    model = made(lambda: Lora(b=True))
    model.b.requires_grad_(False)
    liveness = Liveness(probe(model, (batch(),), {}))
    assert (liveness.stuck, "a" in liveness.first_step) == (frozenset(), False)


def test_dead_by_its_bias_is_still_told_as_dead() -> None:
    model = made(lambda: stack(nn.ReLU, False, False, False))
    nn.init.constant_(model[2].bias, -5.0)
    first = initaudit.audit(model, batch()).findings[0]
    assert (first.code, first.severity, first.fqn) == ("IA103", Severity.ERROR, "2")


def test_zero_biases_get_no_finding_at_all() -> None:
    model = made(lambda: stack(nn.ReLU, False, False, False))
    for layer in (model[0], model[2], model[4]):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    assert initaudit.audit(model, batch()).findings == ()


def test_a_constant_row_of_an_embedding_is_no_symmetry() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 32, padding_idx=0), linear())
    with torch.no_grad():
        model[0].weight[3] = 0.5
    report = initaudit.audit(model, torch.randint(20, (16, 4)))
    assert [f.code for f in report.findings if f.code in ("IA103", "IA304")] == []


def constant_layers(*which: int) -> nn.Sequential:
    model = made(lambda: stack(nn.Tanh, False, False, False, False))
    for i in which:
        nn.init.constant_(model[i].weight, 0.05)
        nn.init.zeros_(model[i].bias)
    return model


@pytest.mark.parametrize(
    ("which", "severity", "ties"), [((0, 2, 4, 6), Severity.ERROR, True), ((2,), Severity.WARNING, False)]
)
def test_constant_layers_as_gradient_descent_sees_them(which: tuple[int, ...], severity: Severity, ties: bool) -> None:
    model = constant_layers(*which)
    (found,) = [f for f in initaudit.audit(model, batch()).findings if f.code == "IA304"]
    assert (found.fqn, found.severity) == (str(which[0]), severity)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(batch()).sub(1.0).square().mean().backward()
        optimizer.step()
    rows = model[2].weight.detach()
    assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-6) is ties

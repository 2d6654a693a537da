"""Recurrences and gates written by hand: the way through them, whichever operand is named first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Report
from tests.rules.nets import alarms, found


class Lstm(nn.Module):
    """Over ``cat([x[:, t], h])``, as tutorials write it."""

    def __init__(self, layers: int = 1, *, gate_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.ModuleList(nn.Linear((8 if k == 0 else 64) + 64, 4 * 64) for k in range(layers))
        self.head, self.gate_first = nn.Linear(64, 10), gate_first

    def forward(self, x: Tensor) -> Tensor:
        hidden = [x.new_zeros(len(x), 64) for _ in self.cells]
        memory = list(hidden)
        for t in range(x.size(1)):
            value = x[:, t]
            for k, cell in enumerate(self.cells):
                i, f, o, g = cell(torch.cat([value, hidden[k]], 1)).chunk(4, 1)
                memory[k] = self.times(f, memory[k]) + self.times(i, g.tanh())
                value = hidden[k] = self.times(o, memory[k].tanh())
        result: Tensor = self.head(hidden[-1])
        return result

    def times(self, gate: Tensor, value: Tensor) -> Tensor:
        return gate.sigmoid() * value if self.gate_first else value * gate.sigmoid()


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gates, self.new, self.head = nn.Linear(8 + 64, 128), nn.Linear(8 + 64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 64)
        for t in range(x.size(1)):
            z, r = torch.sigmoid(self.gates(torch.cat([x[:, t], h], 1))).chunk(2, 1)
            h = (1 - z) * torch.tanh(self.new(torch.cat([x[:, t], r * h], 1))) + z * h
        result: Tensor = self.head(h)
        return result


class Products(nn.Module):
    """A trunk whose every layer is multiplied by what ``gate`` makes of another."""

    def __init__(self, *, gate_first: bool, depth: int = 4, closed: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.value = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        self.head, self.gate_first = nn.Linear(64, 10), gate_first
        for layer in (*self.value, *self.gate):
            nn.init.normal_(layer.weight, std=1 / 8)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.gate[1].bias, closed)

    def forward(self, x: Tensor) -> Tensor:
        for value, gate in zip(self.value, self.gate, strict=True):
            gated, opened = value(x), gate(x).sigmoid()
            x = opened * gated if self.gate_first else gated * opened
        result: Tensor = self.head(x)
        return result


def sequences(steps: int) -> Tensor:
    return torch.randn(32, steps, 8, generator=torch.Generator().manual_seed(1))


def audit(model: nn.Module) -> Report:
    return initaudit.audit(model, torch.randn(32, 64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize(("steps", "layers"), [(4, 1), (5, 1), (20, 1), (8, 2)])
def test_a_recurrence_over_slices_is_as_healthy_as_torchs_own(steps: int, layers: int, gate_first: bool) -> None:
    assert not alarms(initaudit.audit(Lstm(layers, gate_first=gate_first), sequences(steps)))


def test_a_state_of_zeros_at_the_start_is_no_dead_branch() -> None:
    assert not alarms(initaudit.audit(Gru(), sequences(12)))


@pytest.mark.parametrize("bias", [-8.0, 8.0])
def test_a_recurrence_whose_gates_are_stuck_fails(bias: float) -> None:
    model = Lstm()
    nn.init.constant_(model.cells[0].bias, bias)
    report = initaudit.audit(model, sequences(12))
    assert report.verdict == "fail"
    assert len([f for f in report.findings if f.code == "IA111"]) <= 1  # one branch, however many steps join it


@pytest.mark.parametrize("closed", [0.0, -8.0])
def test_the_verdict_does_not_depend_on_which_factor_is_named_first(closed: float) -> None:
    first, last = (audit(Products(gate_first=order, closed=closed)) for order in (True, False))
    assert [(f.code, f.fqn, f.severity) for f in first.findings] == [(f.code, f.fqn, f.severity) for f in last.findings]
    assert first.severity_score == pytest.approx(last.severity_score, rel=1e-3)


def test_a_value_that_dies_is_named_although_its_gate_lives() -> None:
    model = Products(gate_first=True)
    nn.init.normal_(model.value[1].weight, std=1e-4)
    assert found(audit(model), "IA101").fqn == "value.1"


@pytest.mark.parametrize("gate_first", [True, False])
def test_what_a_gate_scales_has_a_size_of_its_own(gate_first: bool) -> None:
    class Dice(nn.Module):
        """``p(x) * x`` with ``p`` a sigmoid behind a batch norm; here of nearly constant ``x`` (DIN)."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(64, eps=1e-8)

        def forward(self, x: Tensor) -> Tensor:
            gate = torch.sigmoid(self.norm(x))
            return gate * x if gate_first else x * gate

    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(200, 64), nn.Flatten(), nn.Linear(128, 64), Dice(), nn.Linear(64, 64), Dice())
    nn.init.normal_(model[0].weight, std=1e-4)
    ids = torch.randint(200, (64, 2), generator=torch.Generator().manual_seed(1))
    assert not alarms(initaudit.audit(nn.Sequential(model, nn.Linear(64, 1)), ids))


def test_what_is_small_from_its_beginning_was_not_lost_on_the_way() -> None:
    class Masked(nn.Module):
        """A mask made by a normalized trunk, times a quiet encoding of the same input (Conv-TasNet)."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.norm, self.mask = nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64)
            self.decoder = nn.Linear(64, 64)
            for layer in (self.encoder, self.mask, self.decoder):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, x: Tensor) -> Tensor:
            quiet = self.encoder(x).relu()
            result: Tensor = self.decoder(self.mask(self.norm(quiet)).relu() * quiet)
            return result

    x = 0.01 * torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    assert "IA101" not in {f.code for f in initaudit.audit(Masked(), x).findings}

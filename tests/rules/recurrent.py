"""Recurrent layers to put a fault into, and traces with nothing but one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from initaudit import audit
from initaudit.records import Finding, Gate, Recurrence, Report
from initaudit.rules import find_rule
from initaudit.rules.base import Observation
from tests.rules.factories import Net, parameter

INPUTS = torch.randn(8, 50, 64, generator=torch.Generator().manual_seed(1))
Fill = Callable[[Any], object]


def recurrence(kind: type[nn.RNNBase], fill: Fill = lambda m: None, **options: Any) -> nn.RNNBase:
    """A layer of torch's with its default weights, changed by ``fill``."""
    torch.manual_seed(0)
    model = kind(64, 96, batch_first=True, **options)
    with torch.no_grad():
        fill(model)
    return model


def audited(kind: type[nn.RNNBase], fill: Fill = lambda m: None, **options: Any) -> Report:
    return audit(recurrence(kind, fill, **options), INPUTS)


def of(report: Report, code: str) -> list[Finding]:
    return [f for f in report.findings if f.code == code]


def judged(code: str, **fields: Any) -> list[Observation]:
    """What a rule says of one recurrence, by hand: half open gates, 50 steps, a third of the mean square kept."""
    net = Net()
    weight = parameter("rnn.weight_hh_l0", (96 * 4, 96))
    net.output(net.layer("rnn.weight_hh_l0", net.input(), weight=weight, layer={"repeats": 4}))
    gates = tuple(Gate(name, 0.5, 0.0, 0.0) for name in ("input", "forget", "output"))
    given = {"kind": "lstm", "steps": 50, "retention": 0.35, "saturated": 0.0, "gates": gates, **fields}
    found = Recurrence(1, weight.fqn, hidden_size=96, **given)
    return list(find_rule(code).check(net.flow(recurrences=(found,))))

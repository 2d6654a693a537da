"""Gates held at their flat ends by the size of what drives them, and not by a bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from initaudit import audit
from tests.rules.nets import found, scale
from tests.rules.recurrent import INPUTS, audited, judged, of, recurrence


@pytest.mark.parametrize(("share", "fires"), [(0.0, False), (0.29, False), (0.31, True), (1.0, True)])
def test_limit(share: float, fires: bool) -> None:
    assert bool(judged("IA110", saturated=share)) == fires


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_input_weights_thirty_times_too_large(kind: type[nn.RNNBase]) -> None:
    finding = found(audited(kind, lambda m: m.weight_ih_l0.mul_(30)), "IA110")
    assert (finding.fqn, finding.severity.value, finding.root_cause) == ("weight_ih_l0", "warning", True)
    assert finding.advice is not None
    assert finding.advice.code == 'nn.init.kaiming_uniform_(m.weight_ih_l0, nonlinearity="linear")'


def test_inputs_that_are_too_large() -> None:
    report = audit(recurrence(nn.LSTM), 30 * INPUTS)
    finding = found(report, "IA110")
    assert "the inputs are large" in finding.message
    assert finding.advice is None


@pytest.mark.parametrize("bias", [-8.0, 8.0])
def test_a_bias_may_hold_a_gate(bias: float) -> None:
    assert not of(audited(nn.LSTM, lambda m: m.bias_ih_l0.fill_(bias)), "IA110")


def test_xavier_and_orthogonal_weights_are_healthy() -> None:
    def fill(m: nn.LSTM) -> None:
        nn.init.xavier_uniform_(m.weight_ih_l0)
        nn.init.orthogonal_(m.weight_hh_l0)

    assert not of(audited(nn.LSTM, fill), "IA110")


class ByHand(nn.Module):
    """An LSTM of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.recur, self.head = nn.Linear(64, 4 * 96), nn.Linear(96, 4 * 96), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 96)
        for step in x.unbind(1):
            i, f, g, o = (self.read(step) + self.recur(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)  # type: ignore[no-any-return]


def test_a_recurrence_written_out_by_hand() -> None:
    model = ByHand()
    assert not of(audit(model, INPUTS), "IA110")
    scale(model.read, 30)
    finding = found(audit(model, INPUTS), "IA110")
    assert (finding.fqn, finding.severity.value) == ("read", "warning")
    assert finding.advice is not None
    assert "m.read.weight" in finding.advice.code


def test_gates_by_hand_that_a_bias_holds() -> None:
    model = ByHand()
    nn.init.constant_(model.read.bias[96:192], 6.0)
    nn.init.constant_(model.read.bias[:96], -6.0)
    assert not of(audit(model, INPUTS), "IA110")

"""What a step keeps of the state, against limits and in torch's layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initaudit import audit
from tests.probe.probing import Call
from tests.rules.recurrent import INPUTS, audited, judged, of

KINDS = [nn.RNN, nn.GRU, nn.LSTM]
GRU: dict[str, Any] = {"kind": "gru", "gates": ()}


@pytest.mark.parametrize(
    ("total", "severity"), [(5.9, None), (6.1, "warning"), (13.9, "warning"), (14.1, "error"), (1e4, "error")]
)
def test_growth_over_the_steps_of_the_input(total: float, severity: str | None) -> None:
    seen = judged("IA204", retention=math.exp(total / 20), steps=20)
    assert [o.severity.value for o in seen if o.severity] == ([severity] if severity else [])


def test_growth_within_chance_is_none_however_long_the_input() -> None:
    assert not judged("IA204", retention=1.05, steps=1000)
    assert judged("IA204", retention=1.25, steps=1000)


@pytest.mark.parametrize(("retention", "severity"), [(0.0, "warning"), (0.019, "warning"), (0.021, "note")])
def test_a_plain_recurrence_that_forgets_at_once(retention: float, severity: str) -> None:
    (seen,) = judged("IA204", kind="rnn_tanh", gates=(), retention=retention)
    assert seen.severity is not None
    assert seen.severity.value == severity


def test_a_short_memory_is_a_note_on_long_inputs_only() -> None:
    assert judged("IA204", **GRU, steps=50)
    assert not judged("IA204", **GRU, steps=10)


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_defaults_get_a_note_at_most(kind: type[nn.RNNBase]) -> None:
    for options in ({}, {"num_layers": 2, "bidirectional": True}, {"bias": False}):
        report = audited(kind, **options)
        assert {f.severity.value for f in report.findings if f.code in ("IA110", "IA204", "IA308")} <= {"note"}


def orthogonal(gain: float = 1.0) -> Any:
    def fill(m: Any) -> None:
        for gate in m.weight_hh_l0.split(96):
            nn.init.orthogonal_(gate, gain)

    return fill


def identity(m: Any) -> None:
    """Le et al. 2015."""
    nn.init.eye_(m.weight_hh_l0)
    nn.init.normal_(m.weight_ih_l0, std=0.001)
    m.bias_ih_l0.zero_()
    m.bias_hh_l0.zero_()


@pytest.mark.parametrize("kind", KINDS)
def test_orthogonal_weights_are_healthy(kind: type[nn.RNNBase]) -> None:
    assert {f.severity.value for f in of(audited(kind, orthogonal()), "IA204")} <= {"note"}


def test_identity_with_relu_is_healthy() -> None:
    report = audited(nn.RNN, identity, nonlinearity="relu")
    assert not of(report, "IA204")


@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_weights_ten_times_too_large_are_found_and_cured(kind: type[nn.RNNBase]) -> None:
    (finding,) = of(audited(kind, lambda m: m.weight_hh_l0.mul_(10)), "IA204")
    assert (finding.fqn, finding.severity.value, finding.root_cause) == ("weight_hh_l0", "error", True)
    assert finding.advice is not None

    def cure(m: Any) -> None:
        m.weight_hh_l0.mul_(10)
        exec(finding.advice.code, {"m": m, "nn": nn})

    assert not [f for f in of(audited(kind, cure), "IA204") if f.severity.value != "note"]


def test_a_relu_that_explodes() -> None:
    (finding,) = of(audited(nn.RNN, orthogonal(2.0), nonlinearity="relu"), "IA204")
    assert finding.severity.value == "error"


def test_a_cell_in_a_loop() -> None:
    def run(m: Call, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return state  # type: ignore[return-value]

    torch.manual_seed(0)
    cell = nn.RNNCell(64, 96)
    nn.init.orthogonal_(cell.weight_hh, 3.0)
    (finding,) = of(audit(Call(run, cell=cell), INPUTS), "IA204")
    assert (finding.fqn, finding.severity.value) == ("cell.weight_hh", "error")

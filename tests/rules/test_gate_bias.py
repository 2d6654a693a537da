"""Biases that hold gates shut, those that remember on purpose, and the two that torch adds up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from initaudit.records import Gate
from tests.rules.recurrent import audited, judged, of

LSTM, GRU = ("input", "forget", "output"), ("reset", "update")


def gates(names: tuple[str, ...], **opened: float) -> dict[str, Any]:
    return {
        "kind": "lstm" if names == LSTM else "gru",
        "gates": tuple(Gate(name, opened.get(name, 0.5), 1.0, 0.0) for name in names),
    }


@pytest.mark.parametrize(("opened", "fires"), [(0.5, False), (0.06, False), (0.04, True), (1e-5, True)])
@pytest.mark.parametrize("gate", LSTM)
def test_a_gate_of_an_lstm_that_is_shut(gate: str, opened: float, fires: bool) -> None:
    opened = opened / 2 if gate == "input" and opened < 0.06 else opened  # half of what is let go
    assert [f"the {gate} gate" in o.message for o in judged("IA308", **gates(LSTM, **{gate: opened}))] == [True] * fires


def test_a_gru_that_keeps_nothing_and_one_that_takes_nothing_in() -> None:
    (erasing,) = judged("IA308", **gates(GRU, update=0.04))
    assert "keeps 0.04 of the state" in erasing.message
    assert not judged("IA308", **gates(GRU, update=0.99))
    (frozen,) = judged("IA308", **gates(GRU, update=0.9999))
    assert "hardly anything is written in 50 steps" in frozen.message


def fill(which: slice, value: float) -> Any:
    return lambda m: m.bias_ih_l0[which].fill_(value)


FORGET = slice(96, 192)


@pytest.mark.parametrize(
    ("kind", "which"), [(nn.LSTM, FORGET), (nn.LSTM, slice(96)), (nn.LSTM, slice(288, 384)), (nn.GRU, FORGET)]
)
def test_a_bias_of_minus_ten_is_found_and_cured(kind: type[nn.RNNBase], which: slice) -> None:
    (finding,) = of(audited(kind, fill(which, -10.0)), "IA308")
    assert (finding.fqn, finding.severity.value, finding.root_cause) == ("bias_ih_l0", "warning", True)
    assert finding.advice is not None

    def cure(m: Any) -> None:
        m.bias_ih_l0[which] = -10.0
        exec(finding.advice.code, {"m": m, "nn": nn})

    assert {f.severity.value for f in of(audited(kind, cure), "IA308")} <= {"note"}


def chrono(m: Any) -> None:
    """Tallec & Ollivier 2018, for dependencies over 784 steps."""
    m.bias_hh_l0.zero_()
    m.bias_ih_l0.zero_()
    m.bias_ih_l0[FORGET] = torch.empty(96).uniform_(1, 783).log()
    m.bias_ih_l0[:96] = -m.bias_ih_l0[FORGET]


@pytest.mark.parametrize("remember", [fill(FORGET, 1.0), fill(FORGET, 5.0), chrono], ids=["one", "five", "chrono"])
def test_biases_that_remember_are_healthy(remember: Any) -> None:
    assert not [f for f in audited(nn.LSTM, remember).findings if f.code != "IA109"]


def test_the_default_is_a_note_with_its_cure() -> None:
    (finding,) = of(audited(nn.LSTM), "IA308")
    assert finding.severity.value == "note"
    assert finding.advice is not None
    assert finding.advice.code == "nn.init.constant_(m.bias_ih_l0[96:192], 1)"
    assert not of(audited(nn.LSTM, lambda m: exec(finding.advice.code, {"m": m, "nn": nn})), "IA308")


def test_both_biases_set_to_one_are_a_note() -> None:
    def both(m: Any) -> None:
        m.bias_ih_l0[FORGET] = 1.0
        m.bias_hh_l0[FORGET] = 1.0

    (finding,) = of(audited(nn.LSTM, both), "IA308")
    assert finding.severity.value == "note"
    assert "torch adds bias_ih and bias_hh" in finding.message
    assert finding.advice is not None
    assert finding.advice.code == "nn.init.constant_(m.bias_ih_l0[96:192], 0)"


def test_layers_that_share_the_fault_are_one_finding() -> None:
    def all_layers(m: Any) -> None:
        for name, bias in m.named_parameters():
            if "bias_ih" in name:
                bias[FORGET] = -10.0

    (finding,) = of(audited(nn.LSTM, all_layers, num_layers=2), "IA308")
    assert (finding.fqn, finding.affected) == ("bias_ih_l0", ("bias_ih_l1",))

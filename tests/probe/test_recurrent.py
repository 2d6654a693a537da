"""Recurrent layers: each weight with its fans per gate, the cells step by step."""

import pytest
import torch
from torch import Tensor, nn

from tests.probe.probing import Call, audit, by_fqn, randn

SEQUENCE = randn(4, 12, 8)
GATES = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}


@pytest.mark.parametrize("kind", GATES)
def test_fans_are_those_of_one_gate(kind: type[nn.RNNBase]) -> None:
    model = Call(lambda m, x: m.head(m.rnn(x)[0]), rnn=kind(8, 32, batch_first=True), head=nn.Linear(32, 4))
    layers = by_fqn(audit(model, SEQUENCE))
    read, recur = layers["rnn.weight_ih_l0"], layers["rnn.weight_hh_l0"]
    assert (read.fan_in, read.fan_out, read.repeats) == (8, 32, GATES[kind])
    assert (recur.fan_in, recur.fan_out, recur.repeats) == (32, 32, GATES[kind])
    assert read.calls[0].activation is not None
    assert recur.weight.grad_rms is not None


def test_two_layers_in_two_directions_show_eight_weights() -> None:
    model = Call(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(8, 16, 2, bidirectional=True, batch_first=True))
    layers = by_fqn(audit(model, SEQUENCE))
    assert len(layers) == 8
    assert layers["rnn.weight_ih_l1_reverse"].fan_in == 32


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_projected_lstm() -> None:
    model = Call(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(8, 32, proj_size=12, batch_first=True))
    layers = by_fqn(audit(model, SEQUENCE))
    assert layers["rnn.weight_hh_l0"].fan_in == 12
    assert (layers["rnn.weight_hr_l0"].fan_in, layers["rnn.weight_hr_l0"].fan_out) == (32, 12)


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNNCell, 1), (nn.GRUCell, 3), (nn.LSTMCell, 4)])
def test_a_cell_keeps_every_step(kind: type[nn.RNNCellBase], gates: int) -> None:
    def run(m: Call, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.head(state[0] if isinstance(state, tuple) else state)

    layers = by_fqn(audit(Call(run, cell=kind(8, 32), head=nn.Linear(32, 4)), SEQUENCE))
    recur = layers["cell.weight_hh"]
    assert len(recur.calls) == 12
    assert (recur.fan_in, recur.repeats) == (32, gates)


def test_packed_sequence() -> None:
    def run(m: Call, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([12, 9, 5, 2]), batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(m.rnn(packed)[0], batch_first=True)
        return m.head(out)

    layers = by_fqn(audit(Call(run, rnn=nn.GRU(8, 32, batch_first=True), head=nn.Linear(32, 4)), SEQUENCE))
    assert set(layers) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "head"}


def test_packed_output_counts_as_output() -> None:
    def run(m: Call, x: Tensor) -> nn.utils.rnn.PackedSequence:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([12, 9, 5, 2]), batch_first=True)
        return m.rnn(packed)[0]

    report = audit(Call(run, rnn=nn.GRU(8, 32, batch_first=True)), SEQUENCE)
    assert by_fqn(report)["rnn.weight_hh_l0"].weight.grad_rms


def test_defaults_of_an_lstm_are_recognized_and_pass() -> None:
    model = Call(lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=nn.LSTM(8, 64, batch_first=True), head=nn.Linear(64, 4))
    report = audit(model, SEQUENCE)
    assert report.verdict == "pass"
    recur = by_fqn(report)["rnn.weight_hh_l0"].weight
    assert recur.std == pytest.approx(64**-0.5 / 3**0.5, rel=0.05)  # U(+-1/sqrt(hidden_size))

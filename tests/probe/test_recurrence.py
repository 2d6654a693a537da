"""What is measured of a recurrence: exact where a gate or a matrix alone decides, else against autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initaudit.records import Recurrence
from tests.probe.probing import Call, audit, randn

KINDS = [nn.RNN, nn.GRU, nn.LSTM]
CELLS = [nn.RNNCell, nn.GRUCell, nn.LSTMCell]


def seen(model: nn.Module, *inputs: Tensor) -> tuple[Recurrence, ...]:
    trace = audit(model, *inputs).trace
    assert trace is not None
    return trace.recurrences


def build(kind: Callable[..., nn.RNNBase], fill: Callable[[nn.RNNBase], object] = lambda m: None, **options: object):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = kind(8, 32, batch_first=True, **options)
    with torch.no_grad():
        fill(model)
    return model


def zero(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.zero_()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_a_silent_tanh_keeps_the_square_of_an_orthogonal_gain(gain: float) -> None:
    def fill(m: nn.RNNBase) -> None:
        zero(m)
        nn.init.orthogonal_(m.weight_hh_l0, gain)  # type: ignore[arg-type]

    (found,) = seen(build(nn.RNN, fill), randn(4, 20, 8))
    assert found.retention == pytest.approx(gain**2, rel=1e-4)
    assert (found.weight, found.kind, found.steps, found.hidden_size) == ("weight_hh_l0", "rnn_tanh", 20, 32)


@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0, 5.0])
def test_gates_alone_keep_their_square(bias: float) -> None:
    def fill(m: nn.RNNBase) -> None:
        zero(m)
        m.bias_ih_l0[32:64] = bias - 0.5  # type: ignore[index, operator]
        m.bias_hh_l0[32:64] = 0.5  # type: ignore[index, operator]

    for kind, name in ((nn.LSTM, "forget"), (nn.GRU, "update")):
        (found,) = seen(build(kind, fill), randn(4, 20, 8))
        assert found.retention == pytest.approx(sigmoid(bias) ** 2, rel=1e-3)
        (gate,) = (g for g in found.gates if g.name == name)
        assert (gate.open, gate.input_bias, gate.state_bias) == pytest.approx(
            (sigmoid(bias), bias - 0.5, 0.5), rel=1e-5
        )


def _rate(model: nn.RNNBase, x: Tensor, steps: int = 10) -> float:
    """The same by autograd: growth of random changes of the state, over the second half of twenty steps."""
    lstm = isinstance(model, nn.LSTM)

    def step(t: int) -> Callable[[Tensor], Tensor]:
        def advance(flat: Tensor) -> Tensor:
            state = flat.chunk(2) if lstm else flat
            _, new = model(x[:, t : t + 1], (state[0][None], state[1][None]) if lstm else state[None])
            return torch.cat([s[0] for s in new]) if lstm else new[0]

        return advance

    state = torch.zeros((2 if lstm else 1) * len(x), 32)
    change, logs = randn(*state.shape, seed=5), []
    for t in range(2 * steps):
        norm = float(change.norm())
        state, change = torch.autograd.functional.jvp(step(t), state, change / norm)
        logs.append(2 * math.log(float(change.norm())))
    return math.exp(sum(logs[steps:]) / steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_rate_is_that_of_autograd(kind: type[nn.RNNBase], scale: float) -> None:
    model = build(kind, lambda m: m.weight_hh_l0.mul_(scale))  # type: ignore[operator, union-attr]
    x = randn(4, 20, 8)
    (found,) = seen(model, x)
    assert math.log(found.retention) == pytest.approx(math.log(_rate(model, x)), abs=0.15)


@pytest.mark.parametrize(("kind", "retention"), [(nn.RNN, 0.21), (nn.GRU, 0.36), (nn.LSTM, 0.35)])
def test_torchs_defaults_forget_in_a_step(kind: type[nn.RNNBase], retention: float) -> None:
    torch.manual_seed(0)
    (found,) = seen(kind(128, 128, batch_first=True), randn(4, 40, 128))
    assert found.retention == pytest.approx(retention, rel=0.25)
    assert found.saturated < 0.01


@pytest.mark.parametrize(("kind", "cell"), list(zip(KINDS, CELLS, strict=True)))
def test_a_cell_in_a_loop_is_the_fused_recurrence(kind: type[nn.RNNBase], cell: type[nn.RNNCellBase]) -> None:
    whole, x = build(kind), randn(4, 12, 8)
    single = cell(8, 32)
    single.load_state_dict({name.removesuffix("_l0"): value for name, value in whole.state_dict().items()})

    def run(m: Call, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]

    (fused,), (looped,) = seen(whole, x), seen(Call(run, cell=single), x)
    assert looped.weight == "cell.weight_hh"
    assert (looped.kind, looped.steps) == (fused.kind, fused.steps)
    assert [g.open for g in looped.gates] == pytest.approx([g.open for g in fused.gates], rel=1e-4)
    assert looped.retention == pytest.approx(fused.retention, rel=1e-4)
    assert looped.saturated == fused.saturated


def test_layers_directions_and_layouts() -> None:
    x = randn(4, 12, 8)
    model = build(nn.GRU, num_layers=2, bidirectional=True)
    found = seen(model, x)
    assert [r.weight for r in found] == [
        "weight_hh_l0", "weight_hh_l0_reverse", "weight_hh_l1", "weight_hh_l1_reverse",
    ]  # fmt: skip
    model.batch_first = False
    assert seen(model, x.transpose(0, 1).contiguous())[2].retention == pytest.approx(found[2].retention, rel=1e-4)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_without_biases_and_with_a_projection() -> None:
    (plain,) = seen(build(nn.LSTM, bias=False), randn(4, 12, 8))
    assert [g.input_bias for g in plain.gates] == [0.0, 0.0, 0.0]
    (small,) = seen(build(nn.LSTM, proj_size=12), randn(4, 12, 8))
    assert (small.hidden_size, small.weight) == (32, "weight_hh_l0")
    assert 0.1 < small.retention < 1


def test_packed_sequences_are_those_of_equal_length() -> None:
    x, model = randn(4, 12, 8), build(nn.GRU)

    def run(m: Call, x: Tensor) -> Tensor:
        return m.rnn(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([12] * 4), batch_first=True))[0].data  # type: ignore[no-any-return]

    (packed,), (padded,) = seen(Call(run, rnn=model), x), seen(model, x)
    assert packed.retention == pytest.approx(padded.retention, rel=1e-4)
    assert packed.steps == padded.steps == 12


def test_half_precision_is_measured() -> None:
    (found,) = seen(build(nn.LSTM).to(torch.bfloat16), randn(4, 12, 8).to(torch.bfloat16))
    assert found.retention == pytest.approx(seen(build(nn.LSTM), randn(4, 12, 8))[0].retention, rel=0.1)


def test_one_step_is_no_recurrence() -> None:
    assert seen(build(nn.GRU), randn(4, 1, 8)) == ()

import pytest

from initaudit.records import Activation, Role, Severity
from initaudit.rules.base import Observation
from initaudit.rules.bias_dominates import RULE
from initaudit.rules.flow import Flow
from tests.rules.factories import RELU, SIGMOID, Net, constant, parameter, stats


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def net_with(
    bias: float, *, rms: float = 1.0, nonlinearity: Activation = RELU, norm: bool = False, repeats: int = 1
) -> Flow:
    """A hidden layer whose weights add a mean square of rms^2, with a bias of this rms."""
    net = Net()
    x = net.input(stats=stats(rms))
    b = parameter("body.bias", (64,), std=bias)
    x = net.layer("body", x, bias=b, nonlinearity=nonlinearity, layer={"repeats": repeats})
    if norm:
        x = net.op("batch_norm", Role.NORM, x, over_batch=True)
    net.output(net.layer("head", net.relu(x)))
    return net.flow()


def test_a_bias_of_three_drowns_a_signal_of_one() -> None:
    (one,) = found(net_with(3.0))
    assert (one.fqn, one.severity) == ("body", Severity.WARNING)
    assert one.observed == pytest.approx(9.0)
    assert one.code == "nn.init.zeros_(m.body.bias)"
    assert one.message == (
        "the bias (rms 3) adds 9 times what the input adds to the pre-activation, and it is the same for every sample"
    )


@pytest.mark.parametrize("bias", [0.0, 0.07, 1.0, 1.9])
def test_ordinary_biases_are_silent(bias: float) -> None:
    assert found(net_with(bias)) == []


def test_a_vanished_input_is_another_rule_s() -> None:
    assert found(net_with(0.07, rms=1e-3)) == []


def test_a_batch_norm_removes_it() -> None:
    assert found(net_with(3.0, norm=True)) == []


def test_a_forget_bias_is_advised() -> None:
    assert found(net_with(3.0, repeats=4)) == []


def test_the_opening_of_a_gate_is_a_note() -> None:
    assert [o.severity for o in found(net_with(3.0, nonlinearity=SIGMOID))] == [Severity.NOTE]


def test_the_prior_of_an_output_layer_is_a_note() -> None:
    net = Net()
    prior = constant("head.bias", (64,), value=-4.6)
    net.output(net.layer("head", net.input(), bias=prior))
    assert [(o.fqn, o.severity) for o in found(net.flow())] == [("head", Severity.NOTE)]


def test_a_weight_of_zeros_is_another_rule_s() -> None:
    net = Net()
    x = net.layer("gate", net.input(), weight=constant("gate.weight"), bias=constant("gate.bias", (64,), value=1.0))
    net.output(net.layer("head", x))
    assert found(net.flow()) == []

from dataclasses import replace

from initaudit.records import Role, Severity
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.symmetric_units import RULE
from tests.rules.factories import Net, chain, constant, parameter, stats

DEAD = stats(1.0, sample_std=0.0)


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def said(flow: Flow) -> list[tuple[str, tuple[str, ...], Severity | None]]:
    return [(o.fqn, o.affected, o.severity) for o in found(flow)]


def test_random_weights_are_silent() -> None:
    assert found(chain(parameter("0.weight"), parameter("2.weight"), parameter("4.weight"))) == []


def test_constant_hidden_layers_are_one_error_at_the_first() -> None:
    flow = chain(*(constant(f"{i}.weight", value=0.1) for i in (0, 2, 4)))
    assert said(flow) == [("0", ("2", "4"), Severity.ERROR)]
    assert found(flow)[0].layer is flow.trace.layers[0]
    assert found(flow)[0].message.startswith("0.weight is constant(0.1): all its units are equal")


def test_one_constant_layer_between_random_ones_is_a_warning() -> None:
    flow = chain(parameter("0.weight"), constant("2.weight", value=0.1), parameter("4.weight"))
    assert said(flow) == [("2", (), Severity.WARNING)]


def test_identical_rows_before_a_random_layer_are_a_warning() -> None:
    flow = chain(parameter("0.weight", identical_rows=True), parameter("2.weight"))
    assert said(flow) == [("0", (), Severity.WARNING)]


def test_a_random_bias_breaks_the_symmetry() -> None:
    net = Net()
    x = net.input()
    for name in ("a", "b"):
        weight = constant(f"{name}.weight", value=0.1)
        x = net.relu(net.layer(name, x, weight=weight, bias=parameter(f"{name}.bias", (64,))))
    net.output(net.layer("head", x, weight=constant("head.weight", value=0.1)))
    assert said(net.flow())[0] == ("a", ("b",), Severity.WARNING)


def test_depthwise_embedding_single_unit_and_frozen_filters_are_no_symmetry() -> None:
    net = Net()
    x = net.input()
    depthwise = {"kind": "Conv2d", "fan_in": 9.0, "fan_out": 9.0}
    x = net.layer("depthwise", x, weight=constant("depthwise.weight", (64, 1, 3, 3), 0.1), layer=depthwise)
    x = net.layer("blur", x, weight=constant("blur.weight", value=0.1, requires_grad=False))
    x = net.layer("score", x, weight=constant("score.weight", (1, 64), 0.1))
    table = constant("table.weight", (100, 64), 0.1)
    x = net.layer("table", x, weight=table, role=Role.EMBEDDING, layer={"kind": "Embedding"})
    net.output(net.layer("head", x))
    assert found(net.flow()) == []


def test_a_parameter_expanded_over_the_batch_has_no_units() -> None:
    net = Net()
    x = net.layer("latents", net.input(), weight=parameter("latents", (2, 64), identical_rows=True))
    net.output(net.layer("head", x))
    net.parameters[0] = parameter("latents", (1, 64))
    assert found(net.flow()) == []


def test_a_head_of_zeros_is_a_note() -> None:
    assert said(chain(parameter("0.weight"), constant("2.weight"))) == [("2", (), Severity.NOTE)]


def cut(grad_rms: float) -> Flow:
    """A hidden layer of zeros with nothing around it."""
    net = Net()
    x = net.relu(net.layer("0", net.input()))
    x = net.relu(net.layer("2", x, weight=constant("2.weight", grad_rms=grad_rms), stats=DEAD), stats=DEAD)
    net.output(net.layer("4", x, stats=DEAD))
    return net.flow()


def test_zeros_that_cut_the_only_path_without_a_gradient_are_an_error() -> None:
    assert said(cut(grad_rms=0.0)) == [("2", (), Severity.ERROR)]


def test_zeros_that_a_gradient_reaches_will_recover() -> None:
    assert said(cut(grad_rms=0.3)) == [("2", (), Severity.WARNING)]


def residual(*, last_gradient: float, first_zero: bool = False, scale_gradient: float | None = None) -> Flow:
    """x + last(relu(first(x))), the last of zeros, twice."""
    net = Net()
    x = net.layer("stem", net.input())
    for i in range(2):
        weight = constant(f"{i}.first.weight", grad_rms=0.0) if first_zero else parameter(f"{i}.first.weight")
        y = net.relu(net.layer(f"{i}.first", x, weight=weight), stats=DEAD if first_zero else stats())
        y = net.layer(f"{i}.last", y, weight=constant(f"{i}.last.weight", grad_rms=last_gradient), stats=DEAD)
        if scale_gradient is not None:
            scale = constant(f"{i}.scale", (1,), grad_rms=scale_gradient)
            net.parameters.append(scale)
            gate = net.op("parameter", Role.PARAMETER, parameters=(scale.fqn,), stats=None, gradient=None)
            y = net.op("mul", Role.SCALE, y, gate, stats=DEAD)
        x = net.add(x, y)
    net.output(net.layer("head", x))
    return net.flow()


def test_zeros_at_the_end_of_residual_branches_are_one_note() -> None:
    assert said(residual(last_gradient=0.1)) == [("0.last", ("1.last",), Severity.NOTE)]


def test_both_layers_of_a_branch_zero_is_a_saddle() -> None:
    flow = residual(last_gradient=0.0, first_zero=True)
    assert said(flow) == [("0.first", ("0.last", "1.first", "1.last"), Severity.WARNING)]


def test_a_bias_of_zeros_with_a_gradient_wakes_nothing() -> None:
    flow = residual(last_gradient=0.0, first_zero=True)
    bias = constant("0.last.bias", (64,), grad_rms=0.5)
    ops = tuple(replace(o, parameters=(*o.parameters, bias.fqn)) if o.layer == "0.last" else o for o in flow.trace.ops)
    trace = replace(flow.trace, ops=ops, parameters=(*flow.trace.parameters, bias))
    assert [severity for _, _, severity in said(Flow(trace))] == [Severity.WARNING]


def test_zeros_behind_a_zero_gate_that_has_a_gradient_will_wake() -> None:
    assert said(residual(last_gradient=0.0, scale_gradient=0.2)) == [("0.last", ("1.last",), Severity.NOTE)]


def test_zeros_behind_a_zero_gate_without_a_gradient_will_not() -> None:
    assert said(residual(last_gradient=0.0, scale_gradient=0.0)) == [("0.last", ("1.last",), Severity.WARNING)]


def test_with_one_sample_the_graph_tells_whether_the_signal_passes() -> None:
    flow = residual(last_gradient=0.1)
    ops = tuple(replace(op, stats=op.stats and replace(op.stats, sample_std=None)) for op in flow.trace.ops)
    assert said(Flow(replace(flow.trace, ops=ops))) == [("0.last", ("1.last",), Severity.NOTE)]

from dataclasses import replace

from initaudit.records import Activation, Role, Severity
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.symmetric_units import RULE
from tests.rules.factories import RELU, TANH, Net, Wired, chain, constant, parameter, stats

SILENT = stats(0.0)


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
    net = Wired()
    x = net.relu(net.layer("0", net.input()))
    net.output(net.layer("2", x, weight=constant("2.weight"), stats=SILENT))
    assert said(net.flow()) == [("2", (), Severity.NOTE)]


def cut(activation: Activation, gradient: float) -> Flow:
    """A hidden layer of zeros with nothing around it."""
    net = Wired()
    x = net.relu(net.layer("0", net.input(), weight=parameter("0.weight", grad_rms=0.0)))
    x = net.layer("2", x, weight=constant("2.weight", grad_rms=gradient), stats=SILENT, gradient=SILENT)
    x = net.op(activation.name, Role.ACTIVATION, x, activation=activation, stats=SILENT, gradient=SILENT)
    net.output(net.layer("4", x, weight=parameter("4.weight", grad_rms=0.0), stats=SILENT))
    return net.flow()


def test_zeros_that_cut_the_only_path_before_relu_are_an_error_that_lists_what_never_moves() -> None:
    (one,) = found(cut(RELU, 0.0))
    assert (one.fqn, one.affected, one.severity) == ("2", (), Severity.ERROR)
    assert "nothing of the input passes it and no gradient ever reaches it" in one.message


def test_zeros_that_a_gradient_reaches_will_recover() -> None:
    assert said(cut(TANH, 0.3)) == [("2", (), Severity.WARNING)]


def residual(*, last_gradient: float, first_zero: bool = False, scale_gradient: float | None = None) -> Flow:
    """x + last(relu(first(x))), the last of zeros, twice."""
    net = Wired()
    x = net.layer("stem", net.input())
    for i in range(2):
        weight = constant(f"{i}.first.weight", grad_rms=0.0) if first_zero else parameter(f"{i}.first.weight")
        inside = SILENT if first_zero else stats()
        y = net.relu(net.layer(f"{i}.first", x, weight=weight, stats=inside, gradient=SILENT), stats=inside)
        y = net.layer(f"{i}.last", y, weight=constant(f"{i}.last.weight", grad_rms=last_gradient), stats=SILENT)
        if scale_gradient is not None:
            net.ops[y] = replace(net.ops[y], gradient=SILENT)
            scale = net.leaf(constant(f"{i}.scale", (1,), grad_rms=scale_gradient))
            y = net.op("mul", Role.SCALE, y, scale, stats=SILENT)
        x = net.add(x, y)
    net.output(net.layer("head", x))
    return net.flow()


def test_zeros_at_the_end_of_residual_branches_are_one_note() -> None:
    assert said(residual(last_gradient=0.1)) == [("0.last", ("1.last",), Severity.NOTE)]


def test_both_layers_of_a_branch_zero_is_a_saddle() -> None:
    flow = residual(last_gradient=0.0, first_zero=True)
    assert said(flow) == [("0.first", ("0.last", "1.first", "1.last"), Severity.ERROR)]


def test_zeros_behind_a_gate_of_one_that_moves_are_a_note_of_their_own() -> None:
    flow = residual(last_gradient=0.1, scale_gradient=0.0)
    parameters = tuple(replace(p, min=1.0, max=1.0) if p.fqn.endswith("scale") else p for p in flow.trace.parameters)
    assert said(Flow(replace(flow.trace, parameters=parameters))) == [("0.last", ("1.last",), Severity.NOTE)]


def test_zeros_behind_a_zero_gate_never_move() -> None:
    flow = residual(last_gradient=0.0, scale_gradient=0.0)
    assert said(flow) == [("0.last", ("0.scale", "1.last", "1.scale"), Severity.ERROR)]


def test_with_one_sample_the_graph_tells_whether_the_signal_passes() -> None:
    flow = residual(last_gradient=0.1)
    ops = tuple(replace(op, stats=op.stats and replace(op.stats, sample_std=None)) for op in flow.trace.ops)
    assert said(Flow(replace(flow.trace, ops=ops))) == [("0.last", ("1.last",), Severity.NOTE)]


def scaled(value: float) -> Flow:
    """x + scale * body(x) with a learned scale that is the same for every channel."""
    net = Wired()
    x = net.layer("stem", net.input())
    y = net.op("mul", Role.SCALE, net.layer("body", x), net.leaf(constant("scale", (64,), value)), stats=stats(value))
    net.output(net.layer("head", net.add(x, y)))
    return net.flow()


def test_a_learned_scale_that_starts_small_is_a_note_and_a_usual_one_is_not() -> None:
    (one,) = found(scaled(1e-6))
    assert (one.fqn, one.severity) == ("scale", Severity.NOTE)
    assert one.message.startswith("scale is constant(1e-06): a learned scale lets its residual branch start")
    assert found(scaled(1.0)) == []

from dataclasses import replace

from initaudit.records import Parameter, Role, Severity
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.no_gradient import RULE
from tests.rules.factories import Net, chain, constant, parameter


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def silent(name: str, **fields: object) -> Parameter:
    return replace(parameter(f"{name}.weight"), grad_rms=None, **fields)  # type: ignore[arg-type]


def detached(*names: str, **fields: object) -> Net:
    """names -> detach -> head, where the names got no gradient."""
    net = Net()
    x = net.input()
    for name in names:
        x = net.layer(name, x, weight=silent(name, **fields), gradient=None)
    x = net.op("detach", Role.VIEW, x, stats=None, gradient=None)
    net.output(net.layer("head", x))
    return net


def test_a_detached_encoder() -> None:
    (one,) = found(detached("encoder.0", "encoder.1").flow())
    assert (one.fqn, one.affected, one.severity) == ("encoder.1", ("encoder.0",), None)
    assert "it stops at `detach`" in one.message


def test_two_cuts_are_two_findings() -> None:
    net = Net()
    x = net.input()
    ends = []
    for name in ("a", "b"):
        y = net.layer(name, x, weight=silent(name), gradient=None)
        ends.append(net.op("detach", Role.VIEW, y, stats=None, gradient=None, scope=name))
    net.output(net.layer("head", net.add(*ends)))
    assert [o.fqn for o in found(net.flow())] == ["a", "b"]


def test_the_same_cut_in_every_block_is_one_finding() -> None:
    net = Net()
    x = net.input()
    for i in range(3):
        y = net.layer(f"h.{i}.query", x, weight=silent(f"h.{i}.query"), gradient=None)
        y = net.op("detach", Role.VIEW, y, stats=None, gradient=None, scope=f"h.{i}.attn")
        x = net.layer(f"h.{i}.out", y)
    net.output(x)
    (one,) = found(net.flow())
    assert (one.fqn, one.affected) == ("h.2.query", ("h.1.query", "h.0.query"))
    assert "it stops at `detach` in h.*.attn" in one.message


def test_a_healthy_net_is_silent() -> None:
    assert found(chain(parameter("0.weight"), parameter("2.weight"))) == []


def test_frozen_parts_are_silent() -> None:
    assert found(detached("encoder", requires_grad=False).flow()) == []


def test_a_part_that_no_output_depends_on_is_a_note() -> None:
    net = Net()
    x = net.layer("body", net.input())
    net.layer("pooler", x, weight=silent("pooler"), gradient=None)
    net.output(net.layer("head", x))
    (one,) = found(net.flow())
    assert (one.fqn, one.severity) == ("pooler", Severity.NOTE)


def test_an_output_that_the_loss_does_not_use_is_a_note() -> None:
    net = Net()
    x = net.layer("body", net.input())
    net.output(net.layer("auxiliary", x, weight=silent("auxiliary"), gradient=None))
    net.output(net.layer("head", x))
    assert [(o.fqn, o.severity) for o in found(net.flow())] == [("auxiliary", Severity.NOTE)]


def test_an_output_that_is_a_view_counts_as_what_it_shows() -> None:
    net = detached("encoder")
    net.ops[-1] = replace(net.ops[-1], output=False)
    net.output(net.op("transpose", Role.VIEW, net.ops[-1].id, stats=None, gradient=None))
    assert [(o.fqn, o.severity) for o in found(net.flow())] == [("encoder", None)]


def test_what_was_never_called_is_left_to_the_rule_of_that() -> None:
    net = Net()
    net.output(net.layer("head", net.input()))
    net.parameters.append(silent("unused"))
    assert found(net.flow()) == []


def test_without_a_backward_pass_nothing_is_said() -> None:
    assert found(chain(silent("0"), silent("2"))) == []


def test_zero_gradients_are_one_note_that_names_the_zeros_behind_them() -> None:
    weights = [replace(parameter(f"{i}.weight"), grad_rms=0.0) for i in (0, 2)]
    (one,) = found(chain(*weights, constant("4.weight")))
    assert (one.fqn, one.affected, one.severity) == ("0", ("2",), Severity.NOTE)
    assert one.message == (
        "the gradient is zero throughout in 0, 2, which is right at the first step behind the zeros of 4"
    )

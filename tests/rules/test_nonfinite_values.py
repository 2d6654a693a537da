from initaudit.records import Role, Severity
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.nonfinite_values import RULE
from tests.rules.factories import Net, parameter, stats

BROKEN = stats(nonfinite=512)


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def test_the_first_operation_that_breaks_is_named_and_its_victims_follow() -> None:
    net = Net()
    x = net.layer("body", net.input())
    x = net.op("log", Role.OTHER, x, stats=BROKEN)
    x = net.layer("middle", x, stats=BROKEN)
    x = net.layer("head", x, stats=BROKEN)
    net.output(x)
    (one,) = found(net.flow())
    assert one.fqn == "body"
    assert one.affected == ("middle", "head")
    assert one.observed == 0.25
    assert one.message == "25.00% of the values that `log` gives are NaN or infinite; it spoils middle, head"


def test_an_operation_inside_a_module_is_named_by_it() -> None:
    net = Net()
    x = net.op("exp", Role.OTHER, net.input(), stats=BROKEN, scope="blocks.3.gate")
    net.output(net.layer("head", x, stats=BROKEN))
    assert [o.fqn for o in found(net.flow())] == ["blocks.3.gate"]


def test_a_layer_that_overflows_is_its_own_cause() -> None:
    net = Net()
    net.output(net.layer("head", net.layer("body", net.input(), stats=BROKEN), stats=BROKEN))
    assert [(o.fqn, o.affected) for o in found(net.flow())] == [("body", ("head",))]


def test_a_finite_net_is_silent() -> None:
    net = Net()
    net.output(net.layer("head", net.layer("body", net.input())))
    assert found(net.flow()) == []


def masked(softmax_broken: bool) -> Net:
    net = Net()
    q = net.layer("q", net.input())
    mask = net.op("constant", Role.INPUT, stats=None, gradient=None, moving=False)
    scores = net.op("add", Role.SCALE, q, mask, stats=BROKEN)
    state = BROKEN if softmax_broken else stats()
    p = net.op("softmax", Role.ATTENTION, scores, stats=state, scope="attn")
    net.output(net.layer("out", p, stats=state))
    return net


def test_a_mask_that_leads_to_a_finite_softmax_is_no_fault() -> None:
    assert found(masked(softmax_broken=False).flow()) == []


def test_a_row_that_is_masked_altogether_is_the_softmax_s_fault() -> None:
    (one,) = found(masked(softmax_broken=True).flow())
    assert (one.fqn, one.affected, one.severity) == ("attn", ("out",), None)
    assert "everything is masked" in one.message


def test_masked_logits_in_the_output_are_a_note() -> None:
    net = Net()
    x = net.layer("head", net.input())
    net.output(net.op("masked_fill", Role.OTHER, x, stats=BROKEN))
    assert [o.severity for o in found(net.flow())] == [Severity.NOTE]


def test_a_broken_input_is_said_to_be_the_input() -> None:
    net = Net()
    net.output(net.layer("body", net.input(stats=BROKEN), stats=BROKEN))
    (one,) = found(net.flow())
    assert "is an input of the model" in one.message


def test_a_broken_weight_belongs_to_another_rule() -> None:
    net = Net()
    net.output(net.layer("body", net.input(), weight=parameter("body.weight", nonfinite=1), stats=BROKEN))
    assert found(net.flow()) == []


def test_two_causes_are_two_findings() -> None:
    net = Net()
    x = net.input()
    for name in ("a", "b"):
        net.output(net.layer(name, net.op("log", Role.OTHER, x, stats=BROKEN, scope=name), stats=BROKEN))
    assert [o.fqn for o in found(net.flow())] == ["a", "b"]


def test_a_gradient_that_breaks_is_traced_from_the_output_down() -> None:
    net = Net()
    a = net.layer("a", net.input(), gradient=BROKEN, weight=parameter("a.weight", grad_nonfinite=1))
    b = net.layer("b", a, gradient=BROKEN)
    root = net.op("sqrt", Role.OTHER, b)
    net.output(net.layer("head", root))
    (one,) = found(net.flow())
    assert (one.fqn, one.affected) == ("b", ("a",))
    assert "`sqrt`" in one.message


def test_a_broken_gradient_that_reaches_no_parameter_harms_none() -> None:
    net = Net()
    net.output(net.layer("head", net.op("softmax", Role.ATTENTION, net.input(), gradient=BROKEN)))
    assert not found(net.flow())

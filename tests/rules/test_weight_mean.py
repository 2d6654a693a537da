import math

import pytest

from initaudit.records import Role
from initaudit.rules.base import Observation
from initaudit.rules.flow import Flow
from initaudit.rules.weight_mean import RULE
from tests.rules.factories import Net, chain, constant, parameter, stats


def found(flow: Flow) -> list[Observation]:
    return list(RULE.check(flow))


def one_layer(mean: float, std: float, *, alike: float = 0.0, shape: tuple[int, ...] = (64, 64)) -> Flow:
    """A layer whose input has mean ``alike`` and rms 1."""
    net = Net()
    x = net.input(stats=stats(1.0, mean=alike, std=math.sqrt(1 - alike**2)))
    x = net.layer("0", x, weight=parameter("0.weight", shape, mean=mean, std=std, rms=math.hypot(mean, std)))
    net.output(x)
    return net.flow()


def test_the_share_of_the_mean() -> None:
    (one,) = found(one_layer(0.1, 0.2, alike=0.5))
    assert one.observed == pytest.approx(0.25 * (1 + 64 * 0.25))
    assert one.fqn == "0"
    assert one.message == (
        "the weights have mean 0.1 beside a std of 0.2: the mean adds 4.25 times what their variance adds to the "
        "pre-activation"
    )


def test_uniform_from_0_to_1_fires_even_on_inputs_of_zero_mean() -> None:
    assert [o.observed for o in found(one_layer(0.5, 12**-0.5))] == [pytest.approx(3.0)]


def test_a_mean_that_does_not_matter_for_this_input() -> None:
    assert found(one_layer(0.1, 0.2)) == []


@pytest.mark.parametrize("fan_out", [1, 10, 1000])
def test_the_mean_of_a_sample_is_chance(fan_out: int) -> None:
    chance = 4.5 * 0.1 / math.sqrt(256 * fan_out)
    assert found(one_layer(chance, 0.1, alike=1.0, shape=(fan_out, 256))) == []


def test_every_layer_of_one_net_is_one_finding() -> None:
    flow = chain(*(parameter(f"{i}.weight", mean=0.5, std=0.29) for i in (0, 2, 4)))
    assert [(o.fqn, o.affected) for o in found(flow)] == [("0", ("2", "4"))]
    assert found(flow)[0].layer is flow.trace.layers[0]


def test_constants_tables_filters_and_tiny_fans_are_not_judged() -> None:
    net = Net()
    x = net.input()
    off = {"mean": 1.0, "std": 0.1}
    table = parameter("table.weight", (100, 64), **off)
    x = net.layer("table", x, weight=table, role=Role.EMBEDDING, layer={"kind": "Embedding"})
    x = net.layer("constant", x, weight=constant("constant.weight", value=0.3))
    x = net.layer("rows", x, weight=parameter("rows.weight", identical_rows=True, **off))
    x = net.layer("filter", x, weight=parameter("filter.weight", requires_grad=False, **off))
    x = net.layer("tiny", x, weight=parameter("tiny.weight", (64, 8), **off))
    depthwise = {"kind": "Conv2d", "fan_out": 25.0}
    x = net.layer("depthwise", x, weight=parameter("depthwise.weight", (64, 1, 5, 5), **off), layer=depthwise)
    net.output(x)
    assert found(net.flow()) == []

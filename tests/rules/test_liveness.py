"""The live-factor rule on graphs written down by hand; tests/rules/test_benign_patterns.py has the truth beside it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initaudit.records import Role
from initaudit.rules.liveness import Liveness
from tests.rules.factories import Wired, constant, parameter, stats

SILENT = stats(0.0)


def product(*zero: bool) -> Liveness:
    """A chain of linear layers and nothing else, some of zeros: the whole is one product of its weights."""
    net = Wired()
    x = net.input()
    silent = False
    for i, z in enumerate(zero):
        silent = silent or z
        blocked = any(other for j, other in enumerate(zero) if j != i)
        make = constant if z else parameter
        weight = make(f"{i}.weight", grad_rms=0.0 if blocked else 0.1)
        later = any(zero[i + 1 :])
        x = net.layer(
            str(i), x, weight=weight, stats=SILENT if silent else stats(), gradient=SILENT if later else stats()
        )
    net.output(x)
    return Liveness(net.trace())


@given(st.lists(st.booleans(), min_size=2, max_size=6))
def test_a_product_recovers_from_one_zero_and_never_from_two(zero: list[bool]) -> None:
    liveness = product(*zero)
    names = {f"{i}.weight" for i in range(len(zero))}
    zeros = {f"{i}.weight" for i, z in enumerate(zero) if z}
    assert set(liveness.factors) == zeros
    if len(zeros) > 1:
        assert (liveness.stuck, liveness.first_step) == (names, {})
    else:
        assert liveness.stuck == frozenset()
        assert liveness.first_step == {n: int(bool(zeros) and n not in zeros) for n in names}


def test_what_waits_is_what_other_zeros_hold_up() -> None:
    liveness = product(False, True)
    first, second = liveness.trace.parameters
    assert (liveness.waits(first), liveness.waits(second)) == (True, False)


def test_a_value_is_silenced_by_zeros_of_parameters_and_not_by_those_of_data() -> None:
    net = Wired()
    empty = net.input(stats=SILENT)
    x = net.layer("by_data", empty, stats=SILENT)
    y = net.layer("by_zeros", net.input(), weight=constant("by_zeros.weight"), stats=SILENT)
    net.output(net.add(x, y))
    liveness = Liveness(net.trace())
    assert [liveness.silenced(net.ops[i]) for i in (x, y)] == [False, True]


def test_dead_units_are_not_mistaken_for_zeros_that_recover() -> None:
    net = Wired()
    x = net.layer("0", net.input(), weight=parameter("0.weight", grad_rms=0.0), gradient=SILENT)
    x = net.relu(x, stats=SILENT)
    net.output(net.layer("2", x, weight=parameter("2.weight", grad_rms=0.0), stats=SILENT))
    liveness = Liveness(net.trace())
    assert (liveness.first_step, liveness.stuck, liveness.factors) == ({}, frozenset(), {})


@pytest.mark.parametrize(
    ("name", "factor"),
    [("mul", True), ("matmul", True), ("div", True), ("add", False), ("cat", False)],
)
def test_what_counts_as_a_factor(name: str, factor: bool) -> None:
    net = Wired()
    x = net.input()
    net.output(net.op(name, Role.SCALE, x, net.leaf(constant("p", (64,)))))
    assert ("p" in Liveness(net.trace()).factors) is factor


def test_a_view_of_zeros_is_a_factor_and_one_plus_zeros_is_none() -> None:
    net = Wired()
    x = net.input()
    view = net.op("T", Role.PARAMETER, net.leaf(constant("view")), stats=None, gradient=None, moving=False)
    x = net.op("matmul", Role.LAYER, x, view, stats=SILENT)
    plus = net.op("add", Role.PARAMETER, net.leaf(constant("plus")), stats=None, gradient=None, moving=False)
    net.output(net.op("mul", Role.SCALE, x, plus, stats=SILENT))
    assert set(Liveness(net.trace()).factors) == {"view"}


def test_frozen_zeros_and_parameters_without_a_gradient_are_left_out() -> None:
    net = Wired()
    x = net.layer("frozen", net.input(), weight=constant("frozen.weight", requires_grad=False), stats=SILENT)
    x = net.layer("cut", x, weight=replace(parameter("cut.weight"), grad_rms=None), stats=SILENT)
    net.output(net.layer("head", x, weight=parameter("head.weight", grad_rms=0.0), stats=SILENT))
    liveness = Liveness(net.trace())
    assert (liveness.first_step, liveness.stuck, liveness.factors) == ({}, frozenset(), {})

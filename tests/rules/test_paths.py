import pytest

from initaudit.records import Role
from initaudit.rules.paths import downstream, listing, owner, upstream
from tests.rules.factories import Net, parameter


def diamond() -> Net:
    net = Net()
    x = net.input()
    a, b = net.layer("a", x), net.layer("b", x)
    net.output(net.layer("head", net.add(a, b)))
    return net


def test_downstream_in_execution_order_without_the_start() -> None:
    ops = diamond().ops
    assert [op.id for op in downstream(ops, [1])] == [3, 4]
    assert [op.id for op in downstream(ops, [0])] == [1, 2, 3, 4]
    assert [op.id for op in downstream(ops, [0], passes=lambda op: op.role is not Role.LAYER)] == [1, 2]


def test_upstream_with_the_ends() -> None:
    ops = diamond().ops
    assert upstream(ops, [3]) == {0, 1, 2, 3}
    assert upstream(ops, [2]) == {0, 2}


@pytest.mark.parametrize(
    ("fqn", "name"),
    [
        ("a.weight", "a"),
        ("norm.bias", "norm"),
        ("rnn.bias_hh_l0", "rnn"),
        ("block.pos_embed", "block.pos_embed"),
        ("weight", "weight"),
    ],
)
def test_owner(fqn: str, name: str) -> None:
    assert owner(diamond().trace(), parameter(fqn)) == name


def test_listing() -> None:
    assert listing("ab") == "a, b"
    assert listing("abcdefg") == "a, b, c, d and 3 more"

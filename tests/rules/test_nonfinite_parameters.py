from initaudit.rules.nonfinite_parameters import RULE
from tests.rules.factories import parameter, parameters_only


def test_nan_in_a_parameter() -> None:
    flow = parameters_only(parameter("a.weight"), parameter("b.weight", nonfinite=2), parameter("c.bias", nonfinite=1))
    (one,) = RULE.check(flow)
    assert (one.fqn, one.affected, one.observed) == ("b", ("c",), 2.0)
    assert one.message == "2 entries of b.weight are NaN or infinite (also c.bias)"


def test_finite_parameters_are_silent() -> None:
    assert list(RULE.check(parameters_only(parameter("a.weight")))) == []

from initaudit.rules.uncalled import RULE
from tests.rules.factories import parameters_only


def test_one_note_lists_all() -> None:
    (one,) = RULE.check(parameters_only(uncalled=("decoder.0", "decoder.1")))
    assert (one.fqn, one.affected, one.observed) == ("decoder.0", ("decoder.1",), 2.0)
    assert one.message == "2 modules were not called on this input, so nothing is known of them: decoder.0, decoder.1"


def test_nothing_to_list() -> None:
    assert list(RULE.check(parameters_only())) == []

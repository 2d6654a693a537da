from initaudit.records import Unjudged
from initaudit.rules.unjudged import RULE
from tests.rules.factories import parameters_only


def test_one_note_gives_every_reason() -> None:
    parts = (Unjudged("mixer", "complex weight"), Unjudged("", "no output has a gradient"))
    (one,) = RULE.check(parameters_only(unjudged=parts))
    assert (one.fqn, one.affected) == ("mixer", ("",))
    assert one.message == "2 parts were not judged: mixer (complex weight), no output has a gradient"


def test_nothing_to_list() -> None:
    assert list(RULE.check(parameters_only())) == []

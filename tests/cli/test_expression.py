"""The language of -k."""

from __future__ import annotations

import pytest

from initaudit.cli.expression import parse_expression
from initaudit.errors import UsageError

NAMES = ["model.py::Encoder", "model.py::TinyEncoder", "model.py::Decoder", "other.py::build_mlp"]


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("coder", [0, 1, 2]),
        ("ENCODER", [0, 1]),
        ("encoder and not tiny", [0]),
        ("not model.py::", [3]),
        ("decoder or tiny and encoder", [1, 2]),
        ("(decoder or tiny) and encoder", [1]),
        ("not not mlp", [3]),
        ("not(decoder or mlp)", [0, 1]),
        ("nothing", []),
        ("order", []),  # begins with an operator, and is a word
    ],
)
def test_which_names_an_expression_chooses(expression: str, chosen: list[int]) -> None:
    keep = parse_expression(expression)
    assert [i for i, name in enumerate(NAMES) if keep(name)] == chosen


@pytest.mark.parametrize(
    ("expression", "culprit"),
    [
        ("(a", "the end"),
        ("a)", r"'\)'"),
        ("a b", "'b'"),
        ("and a", "'and'"),
        ("a or", "the end"),
        ("not", "the end"),
        ("a and or b", "'or'"),
        ("()", r"'\)'"),
    ],
)
def test_what_is_no_expression_is_told_with_the_place(expression: str, culprit: str) -> None:
    with pytest.raises(UsageError, match=rf"^-k '.*': {culprit} is out of place; expected parts of names"):
        parse_expression(expression)

"""The language of ``-k``: parts of names joined by ``and``, ``or``, ``not`` and parentheses, as in pytest."""

from __future__ import annotations

import re
from collections.abc import Callable

from initaudit.errors import UsageError

Predicate = Callable[[str], bool]

_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")


def parse_expression(text: str) -> Predicate:
    """A predicate on names. A word matches a name that contains it, whatever the case.

    ``not`` binds tighter than ``and``, ``and`` tighter than ``or``.

    Raises:
        UsageError: the text is no such expression.
    """
    return _Parser(text).whole()


class _Parser:
    """Recursive descent, one method per level of precedence."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _TOKEN.findall(text)

    def whole(self) -> Predicate:
        predicate = self._either()
        if self._tokens:
            raise self._unexpected()
        return predicate

    def _either(self) -> Predicate:
        left = self._both()
        while self._accept("or"):
            left = _or(left, self._both())
        return left

    def _both(self) -> Predicate:
        left = self._term()
        while self._accept("and"):
            left = _and(left, self._term())
        return left

    def _term(self) -> Predicate:
        if self._accept("not"):
            inner = self._term()
            return lambda name: not inner(name)
        if self._accept("("):
            inner = self._either()
            if not self._accept(")"):
                raise self._unexpected()
            return inner
        if not self._tokens or self._tokens[0] in ("and", "or", ")"):
            raise self._unexpected()
        word = self._tokens.pop(0).lower()
        return lambda name: word in name.lower()

    def _accept(self, token: str) -> bool:
        if self._tokens and self._tokens[0] == token:
            self._tokens.pop(0)
            return True
        return False

    def _unexpected(self) -> UsageError:
        found = repr(self._tokens[0]) if self._tokens else "the end"
        return UsageError(
            f"-k {self._text!r}: {found} is out of place; expected parts of names joined by and, or, not "
            "and parentheses, as in 'encoder and not tiny'"
        )


def _or(left: Predicate, right: Predicate) -> Predicate:
    return lambda name: left(name) or right(name)


def _and(left: Predicate, right: Predicate) -> Predicate:
    return lambda name: left(name) and right(name)

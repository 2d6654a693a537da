"""Records to JSON values and back, exactly: the language of the pipe between worker and parent.

A dataclass becomes the list of its fields in order, which is compact and quick for a trace of ten thousand
operations; both ends of the pipe run the same version, so nothing else is promised. JSON has no literal for NaN
and the infinities, so in a field typed ``float`` they are the strings ``"nan"``, ``"inf"`` and ``"-inf"``.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from math import isfinite
from operator import attrgetter
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Convert = Callable[[Any], Any]


def encode(record: object) -> Any:
    """The record as JSON values: lists, strings, finite numbers, booleans and ``None``.

    Raises:
        TypeError: a field's type is not one of dataclass, enum, ``tuple[X, ...]``, ``X | None`` and the plain scalars.
    """
    kind: Any = type(record)
    return _converters(kind)[0](record)


def decode(kind: type[T], value: Any) -> T:
    """The record of type ``kind`` that :func:`encode` turned into ``value``."""
    hashable: Any = kind
    result: T = _converters(hashable)[1](value)
    return result


@cache
def _converters(kind: Any) -> tuple[Convert, Convert]:
    """Encoder and decoder of a type; :func:`_same` where JSON holds the value as it is."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_converters(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return attrgetter("value"), kind
    if kind is float:
        return _encode_float, _decode_float
    if kind in (int, str, bool):
        return _same, _same
    arguments = get_args(kind)
    if get_origin(kind) is tuple and arguments[1:] == (Ellipsis,):
        return _each(_converters(arguments[0])[0], list), _each(_converters(arguments[0])[1], tuple)
    if get_origin(kind) in (types.UnionType, Union) and len(arguments) == 2 and arguments[1] is types.NoneType:
        encoder, decoder = _converters(arguments[0])
        return _unless_none(encoder), _unless_none(decoder)
    raise TypeError(f"{kind!r} has no JSON form here: use a dataclass, an enum, tuple[X, ...], X | None or a scalar")


def _dataclass_converters(kind: type) -> tuple[Convert, Convert]:
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    pairs = [_converters(hints[name]) for name in names]
    encoders = [(i, pair[0]) for i, pair in enumerate(pairs) if pair[0] is not _same]
    decoders = [(i, pair[1]) for i, pair in enumerate(pairs) if pair[1] is not _same]

    def encoder(record: Any) -> list[Any]:
        values = [getattr(record, name) for name in names]
        for i, convert in encoders:
            values[i] = convert(values[i])
        return values

    def decoder(values: list[Any]) -> Any:
        values = list(values)
        for i, convert in decoders:
            values[i] = convert(values[i])
        return kind(*values)

    return encoder, decoder


def _same(value: Any) -> Any:
    return value


def _each(convert: Convert, container: Callable[[Any], Any]) -> Convert:
    if convert is _same:
        return container
    return lambda values: container([convert(value) for value in values])


def _unless_none(convert: Convert) -> Convert:
    if convert is _same:
        return _same
    return lambda value: None if value is None else convert(value)


def _encode_float(value: float) -> float | str:
    return value if isfinite(value) else repr(float(value))


def _decode_float(value: float | str) -> float:
    return float(value)

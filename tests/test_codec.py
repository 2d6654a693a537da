"""Records survive the pipe exactly."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from initaudit import records
from initaudit.codec import decode, encode
from initaudit.records import Histogram, Op, Role, Stats, Trace

RECORDS = [
    kind
    for kind in vars(records).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == records.__name__
]


def same(left: Any, right: Any) -> bool:
    """Equality that takes NaN for equal to NaN and tells a tuple from a list and 1 from 1.0."""
    if is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left)
        )
    if isinstance(left, tuple):
        return isinstance(right, tuple) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return type(left) is type(right) and bool(left == right)


def through_the_pipe(record: Any) -> Any:
    return decode(type(record), json.loads(json.dumps(encode(record), allow_nan=False)))


@given(st.from_type(Trace))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
def test_a_trace_comes_back_exactly(trace: Trace) -> None:
    assert same(through_the_pipe(trace), trace)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_has_a_json_form(kind: type) -> None:
    @given(st.from_type(kind))
    @settings(max_examples=5, deadline=None)
    def comes_back(record: Any) -> None:
        assert same(through_the_pipe(record), record)

    comes_back()


@pytest.mark.parametrize(("value", "text"), [(math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "nan")])
def test_what_json_cannot_write_is_a_string(value: float, text: str) -> None:
    assert encode(Histogram(limit=value, counts=(1, 2))) == [text, [1, 2]]


def test_enums_are_their_values_and_nested_records_lists() -> None:
    stats = Stats(count=4, sampled=4, mean=0.0, std=1.0, rms=1.0, min=-1.0, max=1.0)
    value = encode(Op(id=3, name="linear", role=Role.LAYER, scope="body.0", inputs=(1, 2), stats=stats))
    assert value[:5] == [3, "linear", "layer", "body.0", [1, 2]]
    assert value[7][:4] == [4, 4, 0.0, 1.0]


def test_the_encoded_form_is_left_as_it_was_by_decoding() -> None:
    value = encode(Histogram(limit=math.inf, counts=(1,)))
    decode(Histogram, value)
    assert value == ["inf", [1]]


class Colour(Enum):
    RED = "red"


@dataclass
class Unsupported:
    names: dict[str, int]


def test_enum_by_itself() -> None:
    assert decode(Colour, encode(Colour.RED)) is Colour.RED


def test_a_type_without_json_form_is_named() -> None:
    with pytest.raises(TypeError, match=r"dict\[str, int\] has no JSON form"):
        encode(Unsupported({}))

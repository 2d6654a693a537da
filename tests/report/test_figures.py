import math
from types import ModuleType

import pytest

from initaudit.records import Op, Role
from initaudit.report.figures import (
    counted,
    cure,
    duration,
    expected_std,
    figure,
    listed,
    lookups,
    number,
    percent,
    whole,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.03608, "0.0361"),
        (0.5, "0.5"),
        (1.0, "1"),
        (512.4, "512"),
        (36123.0, "36100"),
        (0.0012345, "0.00123"),
        (0.00099999, "0.001"),
        (1.23e-9, "1.2e-09"),
        (-4.5e6, "-4.5e+06"),
        (99999.0, "1.0e+05"),
        (0.0, "0"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (None, ""),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_aligned_numbers_keep_their_zeros() -> None:
    assert [number(v, aligned=True) for v in (0.5, 1.0, 10.0, 100.0, 2000.0)] == [
        "0.500",
        "1.00",
        "10.0",
        "100",
        "2000",
    ]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0%"),
        (0.001, "<1%"),
        (0.12, "12%"),
        (0.994, "99%"),
        (0.9991, ">99%"),
        (1.0, "100%"),
        (None, ""),
        (math.nan, "nan"),
    ],
)
def test_percent_claims_none_and_all_only_when_exact(fraction: float | None, text: str) -> None:
    assert percent(fraction) == text


def test_whole_shows_every_digit_of_a_count() -> None:
    assert [whole(v) for v in (256.0, 150528.0, 42.66, math.inf)] == ["256", "150528", "42.7", "inf"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.01 s"), (0.42, "0.4 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (125.4, "2 min 5 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counted() -> None:
    assert [counted(n, "error") for n in (0, 1, 2)] == ["0 errors", "1 error", "2 errors"]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (["a", "b", "c", "d"], "a, b, c and d"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
    ],
)
def test_listed(names: list[str], text: str) -> None:
    assert listed(names) == text


def test_figure_gives_fractions_as_percentages(make: ModuleType) -> None:
    assert figure(make.finding()) == "1.2e-09 times the first layer's rms, limit 1.0e-04"
    assert figure(make.finding(observed=0.61, limit=0.5, unit="fraction of units")) == "61% of units, limit 50%"
    assert figure(make.finding(observed=3.0, limit=None, unit="")) == "3"
    assert figure(make.finding(observed=None)) == ""


def test_expected_std_is_he_for_relu_and_lecun_without_an_activation(make: ModuleType) -> None:
    assert expected_std(make.layer("a")) == pytest.approx(math.sqrt(2 / 256))
    assert expected_std(make.layer("a", activation=None)) == pytest.approx(1 / 16)
    assert expected_std(make.layer("a", fan_in=0.0)) is None


def test_a_table_of_embeddings_has_no_expected_std(make: ModuleType) -> None:
    ops = (
        Op(1, "embedding", Role.EMBEDDING, "tokens", layer="tokens"),
        Op(2, "linear", Role.LAYER, "head", layer="head"),
    )
    tokens, head = make.layer("tokens"), make.layer("head")
    tables = lookups(make.report(tokens, head, ops=ops))
    assert expected_std(tokens, tables) is None
    assert expected_std(head, tables) is not None


def test_cure_names_scheme_gain_and_both_stds(make: ModuleType) -> None:
    layers = [make.layer("body.0", std=0.0361)]
    assert (
        cure(make.finding(advice=make.kaiming()), layers) == "kaiming_normal_ with gain 1.41: std 0.0884, found 0.0361"
    )
    assert (
        cure(make.finding(advice=make.kaiming(), fqn="other"), layers) == "kaiming_normal_ with gain 1.41: std 0.0884"
    )
    assert cure(make.finding()) == ""

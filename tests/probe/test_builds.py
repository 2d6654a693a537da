"""Two builds of one model, and copies inside one: what is told from what, and what it costs nothing to leave alone."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initaudit.errors import AuditError
from initaudit.probe import builds
from initaudit.probe.builds import Origin, compare_builds, copies_within, is_scattered
from initaudit.probe.restore import random_state


def compared(factory: Callable[[], nn.Module], seed: int = 0) -> Origin:
    def build(seed: int) -> nn.Module:
        with random_state(seed):
            return factory()

    return compare_builds(build(seed), build, seed)


class Weights(nn.Module):
    """Parameters by name."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def seedless() -> Tensor:
    return torch.tensor(np.random.default_rng().normal(size=(8, 8)))


def fixed(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


class TestTwoBuilds:
    def test_each_parameter_is_told_apart(self) -> None:
        origin = compared(
            lambda: Weights(
                torch=torch.randn(8, 8),
                numpy=torch.tensor(np.random.normal(size=(8, 8))),
                seedless=seedless(),
                fixed=fixed(8, 8),
            )
        )
        assert origin.reproducible == {"torch": True, "numpy": True, "seedless": False, "fixed": True}
        assert origin.follows_seed == {"torch": True, "numpy": True, "seedless": True, "fixed": False}
        assert origin.unjudged == ()

    def test_constants_and_tables_are_not_said_to_ignore_the_seed(self) -> None:
        positions = torch.arange(64.0)[:, None] * torch.exp(-torch.arange(0, 32, 2) * math.log(10_000) / 32)
        origin = compared(
            lambda: Weights(
                zeros=torch.zeros(8, 8),
                line=torch.linspace(-1, 1, 64).reshape(8, 8),
                sine=torch.cat([positions.sin(), positions.cos()], 1),
                decay=torch.log(torch.arange(1.0, 17)).expand(32, 16).clone(),
                single=torch.tensor(0.3),
            )
        )
        assert set(origin.reproducible.values()) == {True}
        assert origin.follows_seed == {}

    def test_rounding_is_no_other_draw_and_another_draw_is_no_rounding(self) -> None:
        noise = iter([0.0, 1e-6, 0.0, 0.0, 1e-2, 0.0])
        base = fixed(64, 64)
        assert compared(lambda: Weights(a=base + next(noise) * base.roll(1))).reproducible == {"a": True}
        assert compared(lambda: Weights(a=base + next(noise) * base.roll(1))).reproducible == {"a": False}

    def test_one_entry_of_many_is_enough(self) -> None:
        count = itertools.count()

        def factory() -> nn.Module:
            weight = fixed(1100, 1000)
            weight[-1, -1] = next(count)
            return Weights(a=weight)

        assert compared(factory).reproducible == {"a": False}

    def test_nan_is_equal_to_nan(self) -> None:
        assert compared(lambda: Weights(a=torch.full((4, 4), math.nan))).reproducible == {"a": True}

    def test_a_shape_or_a_name_that_comes_and_goes_is_not_reproducible(self) -> None:
        widths = itertools.count(8)
        assert compared(lambda: nn.Linear(next(widths), 4)).reproducible == {"weight": False, "bias": False}
        names = itertools.count()
        assert compared(lambda: Weights(**{f"a{next(names)}": fixed(4, 4)})).reproducible == {"a0": False}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
    def test_other_precisions(self, dtype: torch.dtype) -> None:
        origin = compared(lambda: Weights(a=torch.randn(8, 8).to(dtype), b=fixed(8, 8).to(dtype)))
        assert origin.reproducible == {"a": True, "b": True}
        assert origin.follows_seed == {"a": True, "b": False}

    def test_what_has_no_numbers_is_left_out(self) -> None:
        origin = compared(
            lambda: Weights(
                whole=torch.ones(4, dtype=torch.int64), empty=torch.empty(0), meta=torch.empty(4, device="meta")
            )
        )
        assert origin == Origin()
        assert compared(lambda: nn.LazyLinear(4)) == Origin()

    def test_a_part_that_every_build_shares_says_nothing(self) -> None:
        backbone = nn.Linear(8, 8)
        origin = compared(lambda: nn.Sequential(backbone, nn.Linear(8, 8)))
        assert origin.follows_seed == {"1.weight": True, "1.bias": True}
        assert "0.weight" not in origin.reproducible

    def test_a_factory_that_keeps_its_model_is_no_factory(self) -> None:
        model = nn.Linear(4, 4)
        origin = compared(lambda: model)
        assert (origin.reproducible, origin.follows_seed) == ({}, {})
        assert [u.reason for u in origin.unjudged] == ["its factory gives one and the same model at each call"]

    def test_a_second_build_that_fails_costs_no_audit(self) -> None:
        calls = itertools.count()

        def build(seed: int) -> nn.Module:
            if next(calls):
                raise AuditError("load", "the name is taken")
            return nn.Linear(4, 4)

        (reason,) = compare_builds(build(0), build, 0).unjudged
        assert reason.reason == "it cannot be built a second time: the name is taken"

    def test_a_large_model_is_not_held_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(builds, "LARGEST", 3_000_000)

        def build(seed: int) -> nn.Module:
            raise AssertionError("built again")

        (reason,) = compare_builds(nn.Linear(2000, 2000), build, 0).unjudged
        assert reason.reason == (
            "not built a second time to compare, for it has 4 million parameters (up to 3 million are)"
        )


class TestCopies:
    def test_a_copy_is_named_with_its_original(self) -> None:
        first = nn.Linear(8, 8)
        model = nn.ModuleList([first, nn.Linear(8, 8), copy.deepcopy(first), copy.deepcopy(first)])
        assert copies_within(model) == {"2.weight": "0.weight", "3.weight": "0.weight"}

    def test_what_is_tied_shares_memory_and_is_no_copy(self) -> None:
        first = nn.Linear(8, 8)
        second = nn.Linear(8, 8)
        second.weight = nn.Parameter(first.weight.data)
        assert copies_within(nn.ModuleList([first, first, second])) == {}

    def test_a_start_in_common_is_not_enough(self) -> None:
        a = fixed(8, 8)
        b = a.clone()
        b[-1, -1] += 1
        assert copies_within(Weights(a=a, b=b)) == {}

    def test_what_is_alike_by_nature_is_no_copy(self) -> None:
        alike = [torch.zeros(8, 8), torch.linspace(-1, 1, 64).reshape(8, 8), fixed(3, 5)]
        tensors = {f"{name}{i}": tensor.clone() for i in (0, 1) for name, tensor in zip("abc", alike, strict=True)}
        assert copies_within(Weights(**tensors)) == {}

    def test_vectors_are_left_alone(self) -> None:
        assert copies_within(Weights(a=fixed(64), b=fixed(64))) == {}


class TestScattered:
    @pytest.mark.parametrize("shape", [(16, 16), (64, 3, 3, 3), (1, 256), (300, 300), (2, 2, 64)])
    def test_draws_are(self, shape: tuple[int, ...]) -> None:
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            assert is_scattered(torch.randn(shape, generator=generator))
            assert is_scattered(torch.rand(shape, generator=generator) + 3)

    @pytest.mark.parametrize("degree", [1, 2])
    def test_smooth_tables_are_not(self, degree: int) -> None:
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
        assert not is_scattered(rows**degree)
        assert not is_scattered((rows * columns) ** degree)

    def test_too_few_or_constant(self) -> None:
        assert not is_scattered(torch.randn(3, 5))
        assert not is_scattered(torch.ones(8, 8))

"""Masks, scales and tables told from weights; and weights not taken for them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from initaudit.probe.tables import is_mask, no_matrix, unreadable
from initaudit.probe.weights import parameter_record

SIZE = 32


def reason(tensor: Tensor, name: str = "m.weight") -> str:
    return no_matrix(tensor, parameter_record(name, tensor, fans=None, torch_fans=None))


def with_one(value: float) -> Tensor:
    zeros = torch.zeros(SIZE, SIZE)
    zeros[3, 4] = value
    return zeros


@pytest.mark.parametrize("low", [-math.inf, -1e4, -100.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks(low: float, dtype: torch.dtype) -> None:
    assert is_mask(torch.full((SIZE, SIZE), low).triu(1).to(dtype))
    assert is_mask(torch.full((1, 1, SIZE, SIZE), low).tril().to(dtype))


@pytest.mark.parametrize(
    "tensor",
    [
        with_one(math.inf),
        with_one(-math.inf),
        with_one(math.nan),
        torch.zeros(SIZE, SIZE),
        torch.full((SIZE, SIZE), math.inf).triu(),
        torch.tensor([0.0] * 9 + [-math.inf] * 9),
        torch.randn(SIZE, SIZE).sign(),
        torch.randn(SIZE, SIZE).relu(),
    ],
)
def test_what_is_no_mask(tensor: Tensor) -> None:
    assert not is_mask(tensor)


@pytest.mark.parametrize(
    "table",
    [
        torch.arange(1.0, 17).log().repeat(SIZE, 1),
        (-torch.outer(torch.arange(1.0, 9), torch.arange(64.0) / 256)).exp(),
        torch.linspace(1, 2, 64)[:, None] + torch.randn(1, 64, generator=torch.Generator().manual_seed(0)),
        torch.ones(4, SIZE),
    ],
)
def test_tables(table: Tensor) -> None:
    assert reason(table)


@pytest.mark.parametrize("name", ["l.weight_scale_inv", "l.scales", "l.input_scale", "l.absmax"])
def test_scales_are_told_by_their_name(name: str) -> None:
    scales = torch.rand(SIZE, SIZE) + 1
    assert "scale" in reason(scales, name)
    assert reason(scales) == ""


def test_weights_are_no_tables_however_they_are_wrong() -> None:
    torch.manual_seed(0)
    for shape in ((SIZE, SIZE), (64, 8, 3, 3), (256, 64)):
        wrong = [torch.rand(shape), torch.full(shape, 0.1), torch.randn(1, *shape[1:]).expand(shape), torch.rand(shape)]
        assert [reason(weight) for weight in wrong] == [""] * 4


def test_what_holds_no_plain_numbers() -> None:
    w = torch.randn(SIZE, SIZE)
    assert unreadable(w) == ""
    assert "sparse_coo" in unreadable(w.to_sparse())
    assert "meta" in unreadable(w.to("meta"))
    assert "int64" in unreadable(torch.arange(3))
    assert "0 entries" in unreadable(w[:0])
    if hasattr(torch, "float8_e8m0fnu"):
        assert "scales" in unreadable(w.abs().to(torch.float8_e8m0fnu))
    if hasattr(torch, "float4_e2m1fn_x2"):
        assert "does not read" in unreadable(torch.zeros(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch calls nested tensors a prototype
def test_nested_tensors() -> None:
    assert "nested" in unreadable(torch.nested.nested_tensor([torch.randn(3), torch.randn(4)]))

"""What a model that fills the memory relies on: one gradient at a time, no wide copies, nothing for what is frozen."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from initaudit.probe import backward
from initaudit.probe.unwritten import build_and_mark
from initaudit.probe.weights import look
from initaudit.probe.whole import BLOCK, PIECE, norm_and_check, norm_and_total
from tests.probe.probing import Call, audit, by_fqn, randn

WIDTH = 1100  # its square is above BLOCK


class Calls(TorchDispatchMode):
    """Sees every call below autograd, those of the backward pass too."""

    def __init__(self, see: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._see(func, args, kwargs or {}, out)
        return out


class LiveBytes:
    """Bytes that tensors made under it hold, now and at their peak; memory that they share counts once."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: set[int] = set()

    def see(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is None or storage.data_ptr() in given | self._known or not storage.nbytes():
                continue
            self._known.add(storage.data_ptr())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, storage.data_ptr(), storage.nbytes())

    def _freed(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


def deep(layers: int = 12, width: int = 128) -> nn.Sequential:
    linears = [nn.Linear(width, width, bias=False, dtype=torch.bfloat16) for _ in range(layers)]
    return nn.Sequential(*(module for linear in linears for module in (linear, nn.Tanh())))


def test_one_gradient_of_a_parameter_exists_at_a_time() -> None:
    model = deep()
    alive: list[int] = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
        )
    audit(model, randn(2, 128).bfloat16())
    assert alive == [1] * 12


def test_a_tied_weight_has_one_gradient() -> None:
    table, head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
    head.weight = table.weight
    calls: list[float] = []
    table.weight.register_post_accumulate_grad_hook(lambda p: calls.append(float(p.grad.norm())))  # type: ignore
    report = audit(nn.Sequential(table, nn.Linear(16, 16), head), torch.arange(32).view(4, 8))
    assert len(calls) == 1
    (weight,) = (p for p in report.trace.parameters if p.fqn == "0.weight")  # type: ignore[union-attr]
    assert weight.grad_rms == pytest.approx(calls[0] / 800**0.5, rel=1e-5)


def test_memory_does_not_grow_with_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the activations that autograd keeps, an audit holds the gradient of one weight and a fixed workspace."""
    monkeypatch.setattr(backward, "_BLOCK", 1009)  # or the noise of the cotangent hides what grows
    peaks = []
    for layers in (6, 48):
        model, x, live = deep(layers), randn(2, 128).bfloat16(), LiveBytes()
        with Calls(live.see):
            audit(model, x)
        peaks.append(live.peak)
    weight = 2 * 128 * 128
    assert peaks[1] - peaks[0] < 42 * weight / 4


def test_no_wide_copy_of_a_whole_tensor() -> None:
    """Float32 of a weight or of its gradient in bfloat16 would be twice the memory of that weight."""
    wide: list[str] = []

    def see(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        halves = [t for t in tree_leaves(args) if isinstance(t, Tensor) and t.dtype is torch.bfloat16]
        if kwargs.get("dtype") in (torch.float32, torch.float64) and any(t.numel() > BLOCK for t in halves):
            wide.append(str(func))

    model = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)
    with Calls(see):
        audit(model, randn(2, WIDTH).bfloat16())
    assert wide == []


@pytest.mark.parametrize("count", [1, 4096, 5000, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 3_000_000])
def test_sums_of_float32_are_those_of_float64(count: int) -> None:
    """Of random numbers to 1e-6; of equal ones, which are rounded all the same way, to 1e-4."""
    for tensor, error in ((randn(count) + 0.1, 1e-6), (torch.full((count,), 0.7), 2e-4)):
        exact = tensor.double()
        for norm, other in (norm_and_check(tensor), norm_and_total(tensor)):
            assert float(norm) == pytest.approx(exact.norm().item(), rel=error)
            assert math.isfinite(float(other))
        assert float(norm_and_total(tensor)[1]) == pytest.approx(exact.sum().item(), abs=1e-5 * count)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2 * BLOCK // 4096 + 1, 4096), (BLOCK + 5,), (1100, 1100)])
def test_sums_in_blocks_are_those_of_the_whole(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (randn(*shape) + 0.1).to(dtype)
    exact = tensor.double().norm().item()
    assert float(norm_and_check(tensor)[0]) == pytest.approx(exact, rel=1e-6)
    if tensor.dim() > 1:
        for view in (tensor.T, tensor[:, ::2]):
            assert float(norm_and_check(view)[0]) == pytest.approx(view.double().norm().item(), rel=1e-6)
    (seen,) = look([tensor])
    assert seen.moments.mean == pytest.approx(tensor.double().mean().item(), rel=1e-5)
    assert seen.moments.rms == pytest.approx(exact / tensor.numel() ** 0.5, rel=1e-6)


class Adapted(nn.Module):
    """A frozen layer with a low-rank product beside it, as LoRA has; its shapes are those of nothing else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.base = nn.Linear(width, width, bias=False).requires_grad_(False)
        self.down, self.up = nn.Linear(width, 3, bias=False), nn.Linear(3, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.base(x) + self.up(self.down(x)))


def test_frozen_parameters_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(Adapted(70) for _ in range(5)))
    hooked: list[Tensor] = []
    register = Tensor.register_post_accumulate_grad_hook
    monkeypatch.setattr(
        Tensor, "register_post_accumulate_grad_hook", lambda p, hook: (hooked.append(p), register(p, hook))[1]
    )
    of_weights: list[str] = []
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def see(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor) and tuple(t.shape) == (70, 70)]
        of_weights.extend(str(func) for t in made if t.untyped_storage().data_ptr() not in known)

    with Calls(see):
        report = audit(model, randn(16, 70))
    assert {id(p) for p in hooked} == {id(p) for p in model.parameters() if p.requires_grad}
    assert of_weights == []
    found = {p.fqn: p for p in report.trace.parameters}  # type: ignore[union-attr]
    assert [found[f"{i}.base.weight"].grad_rms for i in range(5)] == [None] * 5
    assert all(found[f"{i}.down.weight"].grad_rms for i in range(5))


def test_what_lies_before_all_that_is_trained_has_no_gradient_at_all() -> None:
    frozen = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).requires_grad_(False)
    layers = by_fqn(audit(nn.Sequential(frozen, nn.Linear(8, 4)), randn(16, 8)))
    assert layers["0.0"].calls[0].gradient is None
    assert layers["1"].calls[0].gradient is not None


def test_a_second_build_begins_when_the_first_is_gone() -> None:
    alive: list[weakref.ref[nn.Module]] = []
    together: list[int] = []

    def build() -> nn.Module:
        together.append(sum(ref() is not None for ref in alive))
        model = Call(lambda self, x: x * self.lost, lost=nn.Parameter(torch.empty(64)))
        alive.append(weakref.ref(model))
        return model

    _, unwritten = build_and_mark(build)
    assert unwritten == {"lost"}
    assert set(together) == {0}


def test_memory_of_the_first_build_is_not_taken_for_what_the_second_wrote() -> None:
    def build() -> nn.Module:
        kept = torch.full((300, 300), float("nan"))  # what old memory may hold; its place is taken at once
        del kept
        written = nn.Parameter(torch.full((4,), float("nan")))
        return Call(lambda self, x: x, lost=nn.Parameter(torch.empty(300, 300)), written=written)

    for _ in range(20):
        _, unwritten = build_and_mark(build)
        assert unwritten == {"lost"}

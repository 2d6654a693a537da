"""Parameters made one at a time are those of the build they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from initaudit.probe.deferred import Deferred


class Net(nn.Module):
    """Weights drawn by torch's layers, drawn anew, computed from others, tied, written in part, and not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(32, 48)
        self.orthogonal = nn.Linear(32, 32)
        nn.init.orthogonal_(self.orthogonal.weight)
        self.truncated = nn.Conv2d(4, 16, 5)
        nn.init.trunc_normal_(self.truncated.weight, std=0.02)
        self.embedding = nn.Embedding(64, 32, padding_idx=0)
        self.head = nn.Linear(32, 64, bias=False)
        self.head.weight = self.embedding.weight
        self.scaled = nn.Parameter(torch.randn(40, 40) * self.truncated.weight.std().item())
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
        self.lost = nn.Parameter(torch.empty(40, 40))
        self.legacy = nn.Parameter(torch.FloatTensor(40, 40).uniform_(-1, 1))
        self.masked = nn.Parameter(torch.where(self.scaled > 0, self.scaled, 0.5).detach())
        self.low = nn.Linear(32, 32).to(torch.bfloat16)
        with torch.no_grad():
            self.plain.bias[:32].copy_(self.orthogonal.weight[0])
            self.plain.weight[:, 0] = 0.0


def built(large: int, seed: int = 0) -> tuple[Deferred, nn.Module]:
    deferred = Deferred(seed, large=large)
    torch.manual_seed(seed)
    return deferred, deferred.build(Net)


def test_what_is_made_has_the_law_of_what_is_built() -> None:
    torch.manual_seed(0)
    whole = dict(Net().named_parameters())
    deferred, model = built(large=64)
    names = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert len(names) >= 9
    for name in names:
        if name == "lost":
            continue
        made, real = deferred.make(model.get_parameter(name)).double(), whole[name].detach().double()
        assert (made.shape, made.requires_grad) == (real.shape, False)
        assert deferred.make(model.get_parameter(name)).dtype == whole[name].dtype
        tolerance = 6 / math.sqrt(made.numel())  # six standard errors of an rms, twice
        assert made.square().mean().sqrt() == pytest.approx(float(real.square().mean().sqrt()), rel=tolerance), name


def test_what_the_code_did_to_it_is_done_again() -> None:
    deferred, model = built(large=64)
    weight = deferred.make(model.orthogonal.weight)
    assert torch.allclose(weight @ weight.T, torch.eye(32), atol=1e-5)
    assert torch.equal(deferred.make(model.plain.bias)[:32], weight[0])
    assert deferred.make(model.plain.weight)[:, 0].eq(0).all()
    assert deferred.make(model.embedding.weight)[0].eq(0).all()
    assert model.head.weight is model.embedding.weight
    direction, size = (deferred.make(p) for p in (
        model.normed.parametrizations.weight.original1, model.normed.parametrizations.weight.original0,
    ))  # fmt: skip
    assert torch.allclose(direction.norm(dim=1, keepdim=True), size)


def test_memory_that_nobody_wrote_is_nan_or_what_was_asked_for() -> None:
    deferred, model = built(large=64)
    assert deferred.make(model.lost).isnan().all()
    zeros = Deferred(0, fresh=0.0, large=64)
    assert zeros.make(zeros.build(Net).lost).eq(0).all()
    small = Deferred(0).build(lambda: nn.ParameterList([torch.empty(3)]))  # type: ignore[arg-type]
    assert next(small.parameters()).isnan().all()


def test_small_tensors_are_built_at_once() -> None:
    deferred, model = built(large=1 << 20)
    assert not any(p.is_meta for p in model.parameters())
    weight = model.plain.weight
    assert deferred.make(weight) is weight


def test_the_same_each_time_and_other_with_another_seed() -> None:
    deferred, model = built(large=64)
    again, twin = built(large=64)
    other, third = built(large=64, seed=1)
    first = deferred.make(model.plain.weight)
    assert torch.equal(first, deferred.make(model.plain.weight))
    assert torch.equal(first, again.make(twin.plain.weight))
    assert not torch.equal(first, other.make(third.plain.weight))


def test_making_leaves_the_generator_alone() -> None:
    deferred, model = built(large=64)
    before = torch.get_rng_state()
    deferred.make(model.plain.weight)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.weight.is_meta is False,
        lambda m: m.weight.device.type == "cpu",
        lambda m: torch.zeros_like(m.weight).sum().item() == 0,
        lambda m: torch.empty(64, 64, device=m.weight.device).device.type == "cpu",
        lambda m: bool((m.weight.abs() < 1).all()),
        lambda m: math.isclose(float(torch.linspace(0, 1, 5)[1]), 0.25),
    ],
)
def test_the_code_of_a_model_does_not_notice(ask: Callable[[nn.Linear], bool]) -> None:
    answers = []

    def build() -> nn.Module:
        layer = nn.Linear(64, 64)
        answers.append(ask(layer))
        return layer

    assert next(Deferred(0, large=64).build(build).parameters()).is_meta
    assert answers == [True]


def channels_last() -> nn.Module:
    return nn.Conv2d(16, 16, 3).to(memory_format=torch.channels_last)


def of_each_in_a_list() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    torch._foreach_add_([p.data for p in model.parameters()], 1.0)
    torch._foreach_mul_([p.data for p in model.parameters()], [1.0, 2.0, 3.0, 4.0])
    return model


def a_complex_one() -> nn.Module:
    model = nn.Module()
    model.w = nn.Parameter(torch.view_as_real(torch.randn(64, 64, dtype=torch.cfloat)))
    return model


def other_bits() -> nn.Module:
    model = nn.Module()
    model.w = nn.Parameter(torch.full((64, 64), 16256, dtype=torch.int16).view(torch.bfloat16))
    return model


@pytest.mark.parametrize("build", [channels_last, of_each_in_a_list, a_complex_one, other_bits])
def test_layouts_views_and_lists(build: Callable[[], nn.Module]) -> None:
    deferred = Deferred(0, large=1024)
    model = deferred.build(build)
    assert any(p.is_meta for p in model.parameters())
    with torch.no_grad():
        pairs = zip(map(deferred.make, model.parameters()), build().parameters(), strict=True)
        for made, real in pairs:
            assert (made.shape, made.stride(), made.dtype) == (real.shape, real.stride(), real.dtype)
            assert float(made.float().mean()) == pytest.approx(float(real.float().mean()), abs=0.1)
            assert float(made.float().square().mean()) == pytest.approx(float(real.float().square().mean()), rel=0.2)


def test_what_writes_to_large_and_small_at_once_is_refused() -> None:
    large, small = torch.empty(64, 64, device="meta"), torch.empty(64)
    with Deferred(0), pytest.raises(NotImplementedError, match="to a large tensor and to a small one at once"):
        torch.ops.aten.aminmax.out(torch.ones(64, 64), min=large, max=small)


def test_only_what_was_made_in_sight_is_known() -> None:
    deferred, model = built(large=64)
    assert deferred.knows(model.plain.weight)
    assert not deferred.knows(torch.empty(3, device="meta"))

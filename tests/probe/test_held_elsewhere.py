"""What is written during an audit is put back wherever it is held: scripted code, lists, hooks, losses, generators."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import initaudit
from tests.probe.probing import Call, audit, randn

X = randn(32, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: t.detach().numpy().tobytes() for name, t in module.state_dict().items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("script", [torch.jit.script, lambda m: torch.jit.trace(m, X)], ids=["script", "trace"])
def test_scripted_code(script: Any) -> None:
    model = nn.Sequential(script(net()), nn.Linear(2, 2))
    before = bits(model)
    audit(model, X)
    assert bits(model) == before


def test_an_optimizer_that_steps_in_the_backward_pass() -> None:
    model = net()
    expected = audit(model, X).trace
    for p in model.parameters():
        optimizer = torch.optim.SGD([p], lr=10.0)
        p.register_post_accumulate_grad_hook(lambda _, optimizer=optimizer: optimizer.step())
    before = bits(model)
    trace = audit(model, X).trace
    assert bits(model) == before
    assert trace is not None
    assert expected is not None
    assert [p.std for p in trace.parameters] == [p.std for p in expected.parameters]  # not those after the step


def test_hooks_on_gradients_that_write_weights() -> None:
    model = net()
    model[0].register_full_backward_hook(lambda m, _, __: m.weight.data.clamp_(-0.01, 0.01) is None or None)
    model[3].weight.register_hook(lambda g: model[3].bias.data.zero_() is g or None)
    before = bits(model)
    audit(model, X.clone().requires_grad_())
    assert bits(model) == before


@pytest.mark.parametrize("as_closure", [True, False])
def test_a_loss_that_is_a_network(as_closure: bool) -> None:
    class Score(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))

        def forward(self, y: Tensor) -> Tensor:
            return self.body(y).mean()

    score = Score()
    before = bits(score)
    audit(net(), X, loss=(lambda y: score(y)) if as_closure else score)
    assert bits(score) == before
    assert score.body[1].weight.grad is None


def test_a_loss_around_a_name_that_is_not_bound_yet() -> None:
    def loss(y: Tensor) -> Tensor:
        return y.mean() if y.dim() else later

    assert audit(net(), X, loss=loss).verdict in ("pass", "fail")
    later = torch.zeros(())
    assert torch.equal(loss(later), later)


def test_modules_tensors_arrays_and_generators_in_attributes() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        m.array += m.rng.normal() + m.python.random() + m.legacy.normal()
        m.recent.append(1)
        return m.head(m.parts[1](m.parts[0](x)) * m.scale)

    model = Call(forward, head=nn.Linear(8, 2), parts=[nn.Linear(8, 8), nn.BatchNorm1d(8)], array=np.zeros(2))
    model.rng, model.python, model.legacy = np.random.default_rng(0), random.Random(0), np.random.RandomState(0)
    model.recent, model.scale = deque([0], maxlen=2), torch.ones(8, requires_grad=True)  # type: ignore[assignment]
    states = model.rng.bit_generator.state, model.python.getstate(), repr(model.legacy.get_state())
    norm = bits(model.parts[1])
    audit(model, X)
    assert bits(model.parts[1]) == norm
    assert model.parts[0].weight.grad is None
    assert model.scale.grad is None
    assert list(model.recent) == [0]
    assert (model.array == 0).all()
    assert (model.rng.bit_generator.state, model.python.getstate(), repr(model.legacy.get_state())) == states


def test_a_gradient_that_a_tensor_from_elsewhere_had() -> None:
    elsewhere = torch.ones(8, requires_grad=True)
    elsewhere.grad = torch.full((8,), 3.0)
    initaudit.audit(Call(lambda m, x: m.head(x * elsewhere), head=nn.Linear(8, 2)), X)
    assert elsewhere.grad.tolist() == [3.0] * 8

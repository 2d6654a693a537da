"""The audited model and the process are afterwards bit for bit as they were, on success and on any failure."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import initaudit
from initaudit.errors import AuditError

WIDTH, BATCH, LENGTH = 8, 4, 3


class FailingFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError("backward fails")


class Mischief(nn.Module):
    """Does one thing to itself or to the process while it runs, and passes its input on."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.randn(WIDTH))
        self.spare = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("buffer", torch.randn(WIDTH))
        self.register_buffer("integers", torch.arange(3))
        self.plain = torch.ones(2)
        self.seen: list[Any] = []
        self.table: dict[str, Any] = {"a": 1}
        self.nested: dict[str, list[int]] = {"inner": [1]}
        self.names = {"x"}
        self.generator = torch.Generator().manual_seed(7)

    def forward(self, x: Tensor) -> Tensor:
        return MISCHIEF[self.kind](self, x)


def _do(action: Callable[[Mischief, Tensor], Any]) -> Callable[[Mischief, Tensor], Tensor]:
    def run(m: Mischief, x: Tensor) -> Tensor:
        with torch.no_grad():
            action(m, x)
        return x * m.weight

    return run


def _raise(m: Mischief, x: Tensor) -> Tensor:
    m.buffer.add_(1)
    m.half_done = True
    raise RuntimeError("forward fails")


def _raise_no_grad(m: Mischief, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    raise RuntimeError("forward fails")


def _step(m: Mischief, x: Tensor) -> None:
    for p in m.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(m.parameters(), lr=0.1).step()


MISCHIEF: dict[str, Callable[[Mischief, Tensor], Tensor]] = {
    "nothing": lambda m, x: x * m.weight,
    "write buffer": _do(lambda m, x: m.buffer.mul_(2)),
    "write integer buffer": _do(lambda m, x: m.integers.add_(1)),
    "replace buffer": _do(lambda m, x: setattr(m, "buffer", m.buffer + 1)),
    "register buffer": _do(lambda m, x: m.register_buffer("new", torch.ones(1))),
    "write plain tensor": _do(lambda m, x: m.plain.zero_()),
    "write parameter": _do(lambda m, x: m.weight.mul_(0.5)),
    "write parameter through view": _do(lambda m, x: m.weight[:2].fill_(0)),
    "write parameter through data": _do(lambda m, x: m.weight.data.add_(1)),
    "set data": _do(lambda m, x: setattr(m.weight, "data", m.weight.data * 3)),
    "initialize": _do(lambda m, x: nn.init.normal_(m.spare.weight)),
    "initialize by keyword": _do(lambda m, x: nn.init.constant_(tensor=m.weight, val=2.0)),
    "out argument": _do(lambda m, x: torch.mul(m.weight, 2, out=m.weight)),
    "item assignment": _do(lambda m, x: m.weight.__setitem__(0, 9.0)),
    "copy": _do(lambda m, x: m.weight.copy_(torch.zeros(WIDTH))),
    "many at once": _do(lambda m, x: torch._foreach_mul_(list(m.parameters()), 2.0)),
    "optimizer step": _do(_step),
    "replace parameter": _do(lambda m, x: setattr(m, "weight", nn.Parameter(torch.zeros(WIDTH)))),
    "delete parameter": _do(lambda m, x: delattr(m.spare, "bias")),
    "add parameter": _do(lambda m, x: setattr(m, "extra", nn.Parameter(torch.zeros(2)))),
    "replace module": _do(lambda m, x: setattr(m, "spare", nn.Identity())),
    "add module": _do(lambda m, x: m.add_module("late", nn.Linear(2, 2))),
    "freeze": _do(lambda m, x: m.spare.requires_grad_(False)),
    "attribute": _do(lambda m, x: setattr(m, "cache", x)),
    "delete attribute": _do(lambda m, x: delattr(m, "kind")),
    "append": _do(lambda m, x: m.seen.append(x)),
    "dictionary": _do(lambda m, x: m.table.update(a=2, b=x)),
    "set": _do(lambda m, x: m.names.add("y")),
    "train": _do(lambda m, x: m.train(not m.training)),
    "hook": _do(lambda m, x: m.spare.register_forward_hook(lambda *a: None)),
    "parameter hook": _do(lambda m, x: m.spare.weight.register_hook(lambda g: None)),
    "generators": _do(
        lambda m, x: (torch.randn(3), random.random(), np.random.rand(), torch.randn(2, generator=m.generator))
    ),
    "manual seed": _do(lambda m, x: torch.manual_seed(99)),
    "default dtype": _do(lambda m, x: torch.set_default_dtype(torch.float64)),
    "gradients": _do(lambda m, x: setattr(m.spare.weight, "grad", torch.ones(WIDTH, WIDTH))),
    "zero gradients": _do(lambda m, x: m.zero_grad()),
    "own backward": lambda m, x: (x * m.weight) + torch.autograd.grad((x.detach() * m.weight).sum(), m.weight)[0],
    "half": _do(lambda m, x: m.spare.half()),
    "raise": _raise,
    "raise with gradients off": _raise_no_grad,
    "fail in backward": lambda m, x: FailingFunction.apply(x * m.weight),
    "return nothing": lambda m, x: None,  # type: ignore[return-value, dict-item]
}


class Recurrence(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, WIDTH, max_norm=0.1)  # renormalizes its weight in forward

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(x.argmax(-1) % 5)


PARTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "relu": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "dropout": lambda: nn.Dropout(0.3),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "batch norm": Normed,
    "conv": Convolved,
    "lstm": lambda: Recurrence(nn.LSTM),
    "gru": lambda: Recurrence(nn.GRU),
    "embedding": Embedded,
    "attention": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def containers(module: nn.Module) -> dict[str, Any]:
    """What the dicts, lists and sets of a module hold, by identity."""
    found: dict[str, Any] = {}
    for name, value in module.__dict__.items():
        if isinstance(value, dict):
            found[name] = [(k, id(v)) for k, v in value.items()]
        elif isinstance(value, (list, set)):
            found[name] = sorted(id(v) for v in value)
    return found


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that has to be the same afterwards, in comparable form."""
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    return {
        "modules": {name: id(m) for name, m in modules.items()},
        "parameters": {n: (id(p), p.dtype, p.requires_grad, bits(p), p.data_ptr()) for n, p in parameters.items()},
        "gradients": {n: (id(p.grad), None if p.grad is None else bits(p.grad)) for n, p in parameters.items()},
        "buffers": {n: (id(b), b.dtype, bits(b)) for n, b in model.named_buffers()},
        "attributes": {
            name: [(k, id(v)) for k, v in m.__dict__.items() if k != "training"] for name, m in modules.items()
        },
        "containers": {name: containers(m) for name, m in modules.items()},
        "tensors": {
            (n, k): bits(v) for n, m in modules.items() for k, v in m.__dict__.items() if isinstance(v, Tensor)
        },
        "training": {name: m.training for name, m in modules.items()},
        "hooks": {(name, h): list(getattr(m, h)) for name, m in modules.items() for h in HOOKS},
        "parameter hooks": {n: list(p._backward_hooks or ()) for n, p in parameters.items()},
        "late hooks": {n: list(p._post_accumulate_grad_hooks or ()) for n, p in parameters.items()},
        "generators": {
            (n, k): bits(v.get_state())
            for n, m in modules.items()
            for k, v in m.__dict__.items()
            if isinstance(v, torch.Generator)
        },
        "torch": bits(torch.get_rng_state()),
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "default dtype": torch.get_default_dtype(),
        "gradients on": torch.is_grad_enabled(),
        "modes": torch._C._len_torch_function_stack(),
    }


def assert_unchanged(model: nn.Module, x: Any, *, fails: bool | None = None, **options: Any) -> None:
    before = state(model)
    given = bits(x)
    try:
        report = initaudit.audit(model, x, **options)
    except AuditError:
        assert fails is not False
    else:
        assert not fails
        report.to_json()
    finally:
        default = before["default dtype"]
        after = state(model)
        torch.set_default_dtype(default)
        torch.set_grad_enabled(before["gradients on"])
    for what, was in before.items():
        assert after[what] == was, what
    assert bits(x) == given
    assert x.grad is None
    assert not x.requires_grad


def build(parts: list[str], mischief: str, at: int) -> nn.Sequential:
    steps: list[tuple[str, nn.Module]] = [(f"{i}_{p.replace(' ', '_')}", PARTS[p]()) for i, p in enumerate(parts)]
    steps.insert(at % (len(steps) + 1), ("mischief", Mischief(mischief)))
    return nn.Sequential(OrderedDict(steps))


def decorate(model: nn.Module, draw: random.Random) -> None:
    """Gradients here and there, frozen parameters, mixed modes, hooks of the user."""
    for p in model.parameters():
        if draw.random() < 0.3:
            p.grad = torch.randn_like(p)
        if draw.random() < 0.2:
            p.requires_grad_(False)
    for m in model.modules():
        m.training = draw.random() < 0.5
        if draw.random() < 0.2:
            m.register_forward_hook(lambda m, a, o: None)
        if draw.random() < 0.2:
            m.register_forward_pre_hook(lambda m, a: None)
    for p in model.parameters():
        if p.requires_grad and draw.random() < 0.2:
            p.register_hook(lambda g: None)
            p.register_post_accumulate_grad_hook(lambda p: None)


@pytest.mark.parametrize("kind", MISCHIEF)
def test_whatever_a_module_does_to_itself_is_undone(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Mischief(kind), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 2))
    fails = True if kind in ("raise", "raise with gradients off", "fail in backward", "return nothing") else None
    assert_unchanged(model, torch.randn(BATCH, WIDTH), fails=fails)


def test_every_kind_of_mischief_changes_something_without_the_probe() -> None:
    """Else the tests above would prove nothing."""
    harmless = {
        "nothing",
        "own backward",
        "fail in backward",
        "return nothing",
        "default dtype",
        "raise with gradients off",
    }
    for kind in MISCHIEF:
        model = Mischief(kind)
        model.spare.weight.grad = torch.zeros(WIDTH, WIDTH)
        before = state(model)
        with contextlib.suppress(RuntimeError):
            model(torch.randn(BATCH, WIDTH))
        after = state(model)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        if kind not in harmless:
            assert after != before, kind


@given(
    parts=st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=5),
    mischief=st.sampled_from(sorted(MISCHIEF)),
    at=st.integers(0, 5),
    seed=st.integers(0, 10_000),
    gradients_on=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_generated_models_are_left_as_they_were(
    parts: list[str], mischief: str, at: int, seed: int, gradients_on: bool
) -> None:
    torch.manual_seed(seed)
    model = build(parts, mischief, at)
    decorate(model, random.Random(seed))
    x = torch.randn(BATCH, LENGTH, WIDTH)
    with torch.set_grad_enabled(gradients_on):
        assert_unchanged(model, x, seed=seed % 3)


def test_a_tied_parameter_is_restored_once_and_stays_tied() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Mischief("write parameter"), nn.Linear(WIDTH, WIDTH))
    model[2].weight = model[0].weight
    assert_unchanged(model, torch.randn(BATCH, WIDTH), fails=False)
    assert model[2].weight is model[0].weight


def test_inputs_that_share_memory_with_the_caller_are_not_written() -> None:
    class WritesInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return self.layer(x)

    assert_unchanged(WritesInput(), torch.randn(BATCH, WIDTH), fails=False)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "float64"}, {"device": "cpu"}])
def test_a_model_that_is_moved_for_the_audit_stays_where_it_is(options: dict[str, str]) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))
    assert_unchanged(model, torch.randn(BATCH, WIDTH), fails=False, **options)


def test_a_failing_loss_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH))
    assert_unchanged(model, torch.randn(BATCH, WIDTH), fails=True, loss=lambda y: y["missing"])


def test_lazy_modules_stay_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    initaudit.audit(model, torch.randn(BATCH, WIDTH))
    assert isinstance(model[0], nn.LazyLinear)
    assert isinstance(model[0].weight, nn.UninitializedParameter)
    model(torch.randn(2, 5))


@pytest.mark.parametrize("threads", [1, 3])
def test_torch_works_with_as_many_threads_as_before(threads):
    class Counting(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        initaudit.audit(nn.Sequential(nn.Linear(64, 64), Counting(), nn.Linear(64, 4)), torch.randn(32, 64))
        assert torch.get_num_threads() == threads
        assert set(seen) == {threads}  # the model itself is not slowed
    finally:
        torch.set_num_threads(before)

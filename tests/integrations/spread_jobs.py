"""What a job of two processes does with models that ``fully_shard`` or tensor parallelism has spread."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import initaudit
from initaudit.errors import InitauditError
from initaudit.records import Severity
from tests.integrations.networks import MLP, TORCH, spread

Outcome = dict[str, Any]


class HalfDead(nn.Module):
    """Half of the units of ``a`` are dead."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.a, self.b, self.h = nn.Linear(16, 32), nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 8)
        nn.init.constant_(self.a.bias[32:], -100.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.b(torch.relu(self.a(torch.tanh(self.i(x)))))))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(ids))) + 0.0


class Experts(nn.Module):
    """Each sample goes to the expert that its first number names; all are called."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for which, expert in enumerate(self.experts):
            chosen = (x[:, 0] == which).nonzero().squeeze(-1)
            y = y.index_add(0, chosen, expert(x[chosen]))
        return y


class Sequences(nn.Module):
    """Takes the positions in front, or transposes what has the samples there."""

    def __init__(self, kind: str, *, transposes: bool) -> None:
        super().__init__()
        self.mixer = nn.LSTM(16, 16) if kind == "lstm" else nn.MultiheadAttention(16, 4)
        self.transposes, self.head = transposes, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.transposes else x
        y = self.mixer(x)[0] if isinstance(self.mixer, nn.LSTM) else self.mixer(x, x, x)[0]
        return self.head(y[-1])


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.layer(mask @ x)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def ids() -> Tensor:
    return torch.arange(32).view(4, 8)


def tensor_parallel() -> Outcome:
    """Reports of plans in which outputs stay in parts, and the vocabulary is cut."""
    tensor = importlib.import_module(f"torch.distributed.{'tensor' if TORCH >= (2, 5) else '_tensor'}")
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    kept = {"a": ColwiseParallel(use_local_output=False), "b": RowwiseParallel()}
    words = {
        "words": RowwiseParallel(input_layouts=tensor.Replicate()),
        "head": ColwiseParallel(output_layouts=tensor.Shard(-1)),
    }
    return {
        "kept in parts": initaudit.audit(parallelize_module(seeded(HalfDead), _mesh(), kept), rows()),
        "vocabulary": initaudit.audit(parallelize_module(seeded(Words), _mesh(), words), ids()),
    }


def refused() -> Outcome:
    """What each of these says, where it is not audited."""
    rank = dist.get_rank()
    tokens = rows().clone()
    tokens[:, 0] = torch.arange(8) % 2 if rank else 0
    cases: dict[str, tuple[Any, Any]] = {
        "expert without tokens": (seeded(Experts), tokens),
        "no samples": (seeded(lambda: nn.Linear(16, 16)), rows()[: 8 * rank]),
        "another class": (seeded(lambda: nn.Linear(16, 16) if rank else nn.Bilinear(16, 16, 16)), rows()),
        "lstm": (seeded(lambda: Sequences("lstm", transposes=False)), "float32[8,4,16]"),
        "attention": (seeded(lambda: Sequences("attention", transposes=False)), "float32[8,4,16]"),
        "lstm, transposed": (seeded(lambda: Sequences("lstm", transposes=True)), "float32[8,4,16]"),
        "attention, transposed": (seeded(lambda: Sequences("attention", transposes=True)), "float32[8,4,16]"),
        "mask": (seeded(Masked), ("float32[8,8,16]", "float32[8,8]")),
        "mask of other size": (seeded(Masked), ("float32[4,8,16]", "float32[8,8]")),
        "lazy": (lambda: nn.Sequential(nn.LazyLinear(16), nn.Tanh(), nn.LazyLinear(4)), rows()),
    }
    found: Outcome = {}
    for name, (model, inputs) in cases.items():
        try:
            found[name] = initaudit.audit(model, inputs, distributed=True).verdict
        except InitauditError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return {"refused": found}


def reinitialized(hows: Sequence[str]) -> Outcome:
    """Of a network that explodes: how many warnings, what was changed, the values then, and how many warnings then."""
    found: Outcome = {}
    for how in hows:
        model = spread(seeded(lambda: MLP(3.0)), how)
        inputs = rows() if how == "tensor" else rows(dist.get_rank())
        first = initaudit.audit(model, inputs)
        torch.manual_seed(dist.get_rank())
        told = initaudit.reinitialize_(model, first)
        named = {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}
        values = {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in named.items()}
        warned = [
            sum(f.severity is not Severity.NOTE for f in r.findings) for r in (first, initaudit.audit(model, inputs))
        ]
        found[how] = (warned[0], told, values, warned[1])
    return {"reinitialized": found}


def fully_sharded() -> Outcome:
    """What an audit changes of a model that ``fully_shard`` holds in parts."""
    return {
        "gathered before": _gathered_before(),
        "accumulated": {when: _accumulated(when) for when in ("first", "between", "last")},
        "block first": _block_first(),
        "where it is": initaudit.audit(_net(), rows(), device="auto", dtype="float32").verdict,
        "checkpointed": _checkpointed(),
    }


def _mesh() -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (dist.get_world_size(),))


def _net() -> nn.Sequential:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(16, 32), nn.Tanh()), nn.Linear(32, 8))
    for module in (model[0], model):
        fully_shard(module, mesh=_mesh())
    return model


def rows(seed: int = 1) -> Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))


def _gathered_before() -> Outcome:
    """After a pass without gradients the outermost module stays gathered."""
    model = _net()
    with torch.no_grad():
        before = model(rows())
    gathered = type(model[1].weight).__name__
    initaudit.audit(model, rows())
    held = {name: type(value).__name__ for name, value in model.state_dict().items()}
    norm = float(model[1].weight.full_tensor().norm())
    with torch.no_grad():
        same = torch.equal(model(rows()), before)
    # Whether the hooks that make parts of it again still work, which the first pass registers.
    again = {name: type(value).__name__ for name, value in model.state_dict().items()}
    return {"gathered": gathered, "held": held, "again": again, "norm": norm, "same": same}


def _accumulated(when: str) -> list[str]:
    """The parameters whose gradient over two micro-batches an audit changes, and what it sees of its own."""
    gradients, reports = [], []
    for audited in (False, True):
        model = _net()
        model.set_requires_gradient_sync(False)
        for at in ("first", "between", "last"):
            if at == "last":
                model.set_requires_gradient_sync(True)
            if audited and at == when:
                reports.append(initaudit.audit(model, rows()))
            if at != "between":
                model(rows(len(at))).square().mean().backward()
        gradients.append({name: p.grad.full_tensor() for name, p in model.named_parameters()})
    alone = initaudit.audit(_net(), rows())
    changed = [name for name, g in gradients[0].items() if not torch.equal(g, gradients[1][name])]
    seen = [[p.grad_rms for p in report.trace.parameters] for report in (*reports, alone)]
    return changed + ["report"] * (seen[0] != seen[1])


def _block_first() -> str:
    """Which module is the root is not settled by an audit."""
    model = _net()
    initaudit.audit(model[0], rows())
    model(rows()).square().mean().backward()
    return type(model[1].weight.grad).__name__


def _checkpointed() -> str:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(checkpoint_wrapper(nn.Sequential(nn.Linear(16, 16), nn.Tanh())), nn.Linear(16, 4))
    for module in (model[0], model):
        fully_shard(module, mesh=_mesh())
    return initaudit.audit(model, rows()).verdict


def sharded_in_a_part() -> str:
    """Of four ranks in pairs."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = fully_shard(nn.Linear(16, 16), mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))["b"])
    try:
        return initaudit.audit(model, rows()).verdict
    except InitauditError as error:
        return str(error)

"""What a job of two processes does with models that ``fully_shard`` or tensor parallelism has spread."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import initaudit

Outcome = dict[str, Any]


def fully_sharded() -> Outcome:
    """What an audit changes of a model that ``fully_shard`` holds in parts."""
    return {
        "gathered before": _gathered_before(),
        "accumulated": {when: _accumulated(when) for when in ("first", "between", "last")},
        "block first": _block_first(),
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


def _rows(seed: int = 1) -> Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))


def _gathered_before() -> Outcome:
    """After a pass without gradients the outermost module stays gathered."""
    model = _net()
    with torch.no_grad():
        before = model(_rows())
    gathered = type(model[1].weight).__name__
    initaudit.audit(model, _rows())
    held = {name: type(value).__name__ for name, value in model.state_dict().items()}
    norm = float(model[1].weight.full_tensor().norm())
    with torch.no_grad():
        same = torch.equal(model(_rows()), before)
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
                reports.append(initaudit.audit(model, _rows()))
            if at != "between":
                model(_rows(len(at))).square().mean().backward()
        gradients.append({name: p.grad.full_tensor() for name, p in model.named_parameters()})
    alone = initaudit.audit(_net(), _rows())
    changed = [name for name, g in gradients[0].items() if not torch.equal(g, gradients[1][name])]
    seen = [[p.grad_rms for p in report.trace.parameters] for report in (*reports, alone)]
    return changed + ["report"] * (seen[0] != seen[1])


def _block_first() -> str:
    """Which module is the root is not settled by an audit."""
    model = _net()
    initaudit.audit(model[0], _rows())
    model(_rows()).square().mean().backward()
    return type(model[1].weight.grad).__name__

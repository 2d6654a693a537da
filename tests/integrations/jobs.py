"""Jobs of several processes on this machine, and what each of them does in the tests."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import initaudit
from initaudit.errors import InitauditError
from tests.integrations.networks import build, can_spread, spread
from tests.integrations.spread_jobs import fully_sharded, refused, reinitialized, sharded_in_a_part, tensor_parallel

Outcome = dict[str, Any]


def launch(job: Callable[[], Outcome], ranks: int, folder: Path) -> list[Outcome]:
    """What ``job`` returned on each of ``ranks`` gloo processes."""
    torch.multiprocessing.spawn(_start, (job, ranks, free_port(), folder), nprocs=ranks)  # type: ignore[no-untyped-call]
    return [pickle.loads((folder / f"{job.__name__}{rank}").read_bytes()) for rank in range(ranks)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(rank: int, job: Callable[[], Outcome], ranks: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    try:
        (folder / f"{job.__name__}{rank}").write_bytes(pickle.dumps(job()))
    finally:
        dist.destroy_process_group()


# -- jobs ----------------------------------------------------------------------------------------------------------


def audits(cases: Sequence[tuple[str, str]]) -> Outcome:
    """The report of each network spread in each way."""
    return {f"{name}, {how}": initaudit.audit(*_case(name, how)) for name, how in cases if can_spread(how)}


def two() -> Outcome:
    ways = [(name, how) for name in ("mlp", "exploding", "transformer") for how in ("ddp", "fsdp", "tensor")]
    found = audits([*ways, ("conv", "ddp"), ("conv", "fsdp"), ("batch norm", "ddp"), ("recurrent", "fsdp")])
    model, rows = _case("mlp", "ddp")
    found["loss"] = initaudit.audit(model, rows, loss=mean_loss)
    found["inferred"] = initaudit.audit(build("mlp")[0], distributed=True)
    found["uneven"] = initaudit.audit(build("mlp")[0], rows[: 8 - dist.get_rank()], distributed=True)
    found["alone"] = initaudit.audit(build("mlp")[0], rows)
    return (
        found
        | {f"trained, {how}": _trains_the_same(how) for how in ("ddp", "fsdp", "tensor") if can_spread(how)}
        | _failures(rows)
        | (fully_sharded() if can_spread("fsdp") else {})
        | tensor_parallel()
        | refused()
        | reinitialized([how for how in ("ddp", "fsdp", "tensor") if can_spread(how)])
    )


def four() -> Outcome:
    found = audits([("mlp", "ddp"), ("mlp", "fsdp"), ("transformer", "tensor"), ("mlp", "fsdp and tensor")])
    return found | ({"in a part": sharded_in_a_part()} if can_spread("fsdp") else {})


def mean_loss(output: Tensor) -> Tensor:
    return F.cross_entropy(output, torch.zeros(len(output), dtype=torch.long))


def _case(name: str, how: str) -> tuple[nn.Module, Tensor]:
    """The model and this rank's rows of the batch."""
    model, batch = build(name)
    replicas = {"tensor": 1, "fsdp and tensor": dist.get_world_size() // 2}.get(how, dist.get_world_size())
    replica = dist.get_rank() * replicas // dist.get_world_size()
    return spread(model, how), batch.chunk(replicas)[replica]


def _trains_the_same(how: str) -> list[str]:
    """What an audit before each step changes: nothing."""
    (model, rows), (untouched, _) = _case("mlp", how), _case("mlp", how)
    changed = []
    for step in range(3):
        before = _state(model)
        initaudit.audit(model, rows)
        after = _state(model)
        changed += [f"{what} in step {step}" for what in before if not _same(before[what], after[what])]
        for one in (model, untouched):
            one.zero_grad()
            one(rows).square().mean().backward()
            with torch.no_grad():
                for p in one.parameters():
                    p -= 0.1 * p.grad
    apart = [not _same(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True)]
    return changed + ["training"] * any(apart)


def _state(model: nn.Module) -> dict[str, Any]:
    return {
        "names": list(model.state_dict()),
        "objects": [id(p) for p in model.parameters()],
        "gradients": [id(p.grad) for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "random": torch.get_rng_state(),
        **{f"value of {name}": _whole(p).clone() for name, p in model.named_parameters()},
    }


def _whole(p: Tensor) -> Tensor:
    return p.full_tensor() if hasattr(p, "full_tensor") else p.detach()


def _same(a: Any, b: Any) -> bool:
    return torch.equal(_whole(a), _whole(b)) if isinstance(a, Tensor) else bool(a == b)


class _On(nn.Module):
    """A model in which something happens on rank 1 alone."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(16, 16), what if dist.get_rank() == 1 else ""

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "raise":
            raise ValueError("no batch today")
        y: Tensor = self.layer(x)
        return y.relu() if self.what == "differ" else y.tanh()


def _failures(rows: Tensor) -> Outcome:
    rank = dist.get_rank()

    def wider() -> nn.Module:
        return nn.Linear(16, 16 + rank)

    def broken() -> nn.Module:
        return build("mlp")[0] if rank == 0 else nn.Linear(0, "many")  # type: ignore[arg-type]

    def unlike() -> nn.Module:
        torch.manual_seed(rank)
        return nn.Linear(16, 16)

    def same(what: str) -> nn.Module:
        torch.manual_seed(0)
        return _On(what)

    options: dict[str, tuple[Any, Any]] = {
        "raises": (same("raise"), rows),
        "differs": (same("differ"), rows),
        "unlike": (unlike(), rows),
        "wider": (wider(), rows),
        "broken": (broken, rows),
        "odd": (nn.Linear(16, 16), "float32[7,16]"),
        "malformed": (nn.Linear(16, 16), rows if rank == 0 else "float32[7,"),
    }
    found: Outcome = {}
    for name, (model, inputs) in options.items():
        try:
            initaudit.audit(model, inputs, distributed=True)
        except InitauditError as error:
            found[name] = str(error)
    return found

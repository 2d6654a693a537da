"""Which processes audit a model together, and what each of them feeds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from initaudit.errors import AuditError, UsageError
from initaudit.probe import shards
from initaudit.probe.ranks import Ranks, gather, tensor_sums
from initaudit.probe.restore import random_state
from initaudit.probe.tape import tensors_in
from initaudit.target.inputs import Inputs
from initaudit.target.tree import map_tensors


def unwrapped(model: nn.Module) -> nn.Module:
    """The model out of the wrappers of torch.compile and DistributedDataParallel.

    The tape needs the calls themselves, and gradients are summed here so that the reducer's state stays what it was.
    """
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif (original := _compiled(model)) is not None:
            model = original
        else:
            return model


def _compiled(model: nn.Module) -> nn.Module | None:
    """What torch.compile wraps in ``model``; asked of its parts, for an attribute may be answered by any class."""
    return dict(model.named_children()).get("_orig_mod")


def is_joinable() -> bool:
    """Whether this process is one of a ``torch.distributed`` job."""
    return bool(dist.is_available() and dist.is_initialized())


def is_wrapped(model: nn.Module) -> bool:
    """Whether it is in ``DistributedDataParallel``."""
    return isinstance((_compiled(model) or model), DistributedDataParallel)


def is_cut(model: nn.Module) -> bool:
    """Whether this process holds only parts of parameters."""
    return bool(shards.gathering(model)) or any(map(shards.is_shard, model.parameters()))


@contextmanager
def drawing_alike(model: nn.Module, generator: torch.Generator | None) -> Iterator[None]:
    """Inside, all processes that train ``model`` together draw what the first of them does.

    Every one of them must enter at the same time. From torch's global generator each takes one number.
    """
    if not is_joinable() or not (is_wrapped(model) or is_cut(model)):
        yield
    elif generator is not None:
        generator.set_state(gather(generator.get_state())[0])
        yield
    else:
        with random_state(gather(int(torch.randint(2**31, (), device="cpu")))[0]):
            yield


def joined(model: nn.Module, distributed: bool | None) -> Ranks | None:
    """The processes that audit ``model`` together, or ``None`` for this one alone.

    ``distributed`` is the user's word; without it those processes do whose model is wrapped or cut for them. Every
    process must ask at the same time.

    Raises:
        UsageError: what was asked for cannot be. AuditError: the processes do not fit together.
    """
    wrapped, cut = is_wrapped(model), is_cut(model)
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        raise UsageError("FullyShardedDataParallel is not supported: audit before wrapping, or use fully_shard (FSDP2)")
    if distributed is False:
        if cut:
            raise UsageError("distributed is False, but this process holds only a part of the model's parameters")
        return None
    if distributed is None and not wrapped and not cut:
        return None
    if not is_joinable():
        raise UsageError(
            "distributed is True, but there is no process group: call torch.distributed.init_process_group first"
        )
    group = getattr((_compiled(model) or model), "process_group", None)
    if wrapped and group is not None and group.size() != dist.get_world_size():
        raise AuditError(
            "load",
            f"DistributedDataParallel spans {group.size()} of {dist.get_world_size()} ranks; expected all of them, "
            "since an audit is that of the whole job: audit the model before it is wrapped",
        )
    spanned = shards.spanned(model)
    if spanned and len(spanned) != dist.get_world_size():
        raise AuditError(
            "load",
            f"fully_shard spans {len(spanned)} of {dist.get_world_size()} ranks; expected all of them, since an audit "
            "is that of the whole job: audit the model before it is sharded",
        )
    return Ranks(unwrapped(model))


def share_of(inputs: Inputs, ranks: Ranks, *, is_whole: bool) -> tuple[Inputs, str]:
    """The rows of this process where ``inputs`` is the whole batch, else the inputs as they were given to it.

    With them what they are in words, which is the same on every rank.

    Raises:
        UsageError: the batch cannot be shared out equally, or a rank has none. AuditError: ranks that compute one
            replica together were given different inputs.
    """
    tensors = [t for t in tensors_in((inputs.args, inputs.kwargs)) if t.dim()]
    told = inputs.describe()
    sums = None if is_whole else [tensor_sums(t) for t in tensors]
    every = gather((told, any(not len(t) for t in tensors), sums))
    for rank, (what, is_empty, _) in enumerate(every):
        if is_empty:
            raise UsageError(f"rank {rank} was given {what}, which has no samples; give every rank at least one")
    if len({mine is None for *_, mine in every}) > 1:
        raise UsageError("some ranks were given inputs and some were not; give all of them their shares, or none")
    if not is_whole:
        for group in ranks.replicas:
            if any(every[rank][2] != every[group[0]][2] for rank in group):
                raise AuditError(
                    "input",
                    f"ranks {group} compute one replica together, but were given different inputs; give all of them "
                    "the same",
                )
        unlike = list(dict.fromkeys(every[group[0]][0] for group in ranks.replicas))
        if len(unlike) > 1:
            return inputs, f"{' or '.join(unlike)} on each of {len(ranks)} ranks"
        return inputs, f"{told} on each of {len(ranks)} ranks" if len(ranks) > 1 else told
    if not tensors:
        return inputs, told
    ranks.shares_out = len(ranks) > 1
    first = tensors[0]
    positions = first.shape[1] if first.dim() > 1 else None

    def rows(tensor: Tensor) -> Tensor:
        return ranks.rows(tensor, len(first), positions if tensor is not first else None)

    return replace(inputs, args=map_tensors(inputs.args, rows), kwargs=map_tensors(inputs.kwargs, rows)), told

"""Tensors that are spread over processes (DTensor), and the hooks of ``torch.distributed`` that make them.

Nothing here imports ``torch.distributed.tensor``, which takes seconds: who has made a DTensor has imported it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from initaudit.errors import UsageError


def is_shard(value: Any) -> bool:
    """Whether it is a DTensor: one tensor of which each process holds a part, or a copy."""
    return type(value) is not Tensor and type(value) is not nn.Parameter and isinstance(value, _dtensors())


def _dtensors() -> tuple[type, ...]:
    return tuple(module.DTensor for module in _modules())


def _modules() -> list[Any]:
    """That of the class, where somebody has imported it; before torch 2.5 it had an underscore."""
    modules = (sys.modules.get(f"torch.distributed.{name}") for name in ("tensor", "_tensor"))
    return [module for module in modules if hasattr(module, "DTensor")]


def local(tensor: Tensor) -> Tensor | None:
    """What this process holds of ``tensor``, in plain memory; ``None`` for an unfinished sum (``Partial``)."""
    if type(tensor) is Tensor:
        return tensor
    if is_shard(tensor):
        if any(placement.is_partial() for placement in _placements(tensor)):
            return None
        with torch.no_grad():
            tensor = tensor.to_local()  # type: ignore[attr-defined]
    arrived = getattr(tensor, "trigger_wait", None)  # of a tensor that is still on its way from other processes
    return tensor if arrived is None else arrived()


def whole(tensor: Tensor) -> Tensor:
    """All of ``tensor`` on this process. For a DTensor every process of its mesh must ask at the same time."""
    if not is_shard(tensor):
        return tensor
    with torch.no_grad():
        full: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return full


def placed_as(tensor: Tensor, other: Tensor) -> Tensor:
    """The DTensor ``tensor`` in the parts in which the processes hold ``other``; all of them must ask together."""
    if _placements(tensor) == _placements(other):
        return tensor
    placed: Tensor = tensor.redistribute(placements=other.placements)  # type: ignore[attr-defined]
    return placed


def cut(tensor: Tensor) -> tuple[int, tuple[int, ...]] | None:
    """The dimension along which the processes have cut the DTensor ``tensor``, and the shape of the part held here.

    ``None`` for what is whole, and for what is cut along several.
    """
    if not is_shard(tensor):
        return None
    dims = {placement.dim % tensor.dim() for placement in _placements(tensor) if placement.is_shard()}
    held = local(tensor)
    return (dims.pop(), tuple(held.shape)) if len(dims) == 1 and held is not None else None


def spread_(tensor: Tensor, values: Tensor) -> None:
    """Write ``values``, those of the first process, into the DTensor ``tensor``; all processes must call together.

    Raises:
        UsageError: torch cannot cut them in this way.
    """
    try:
        distribute = _modules()[0].distribute_tensor
        placed = distribute(values, tensor.device_mesh, tensor.placements)  # type: ignore[attr-defined]
        tensor.copy_(placed)
    except (RuntimeError, NotImplementedError, AssertionError, ValueError) as error:
        raise UsageError(
            f"a parameter held in parts as {_placements(tensor)} cannot be written: {error}; initialize the model "
            "before it is spread"
        ) from error


def parts(tensor: Tensor) -> int:
    """Into how many parts the processes have cut the DTensor ``tensor`` among them."""
    sizes = zip(_placements(tensor), tensor.device_mesh.shape, strict=True)  # type: ignore[attr-defined]
    return math.prod(size for placement, size in sizes if not placement.is_replicate())


def is_spread_by_hooks(module: nn.Module) -> bool:
    """Whether hooks of ``torch.distributed`` move the inputs, outputs or parameters of this module (FSDP, tensor
    parallelism)."""
    return any(
        (getattr(hook, "__module__", None) or "").startswith("torch.distributed")
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    )


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module, and not the one that ``fully_shard`` has made of it."""
    return next(cls for cls in type(module).__mro__ if not _gathers(cls))


def gathering(model: nn.Module) -> list[nn.Module]:
    """The modules to which ``fully_shard`` was applied, outermost first."""
    return [m for m in model.modules() if _gathers(type(m))]


def _gathers(cls: type) -> bool:
    return hasattr(cls, "unshard") and hasattr(cls, "reshard")


def spanned(model: nn.Module) -> set[int]:
    """The ranks over which ``fully_shard`` has spread ``model``; empty where it was not applied."""
    reshard(model)
    return _ranks(p for module in gathering(model) for p in module.parameters())


def partners(model: nn.Module) -> list[int]:
    """The ranks that compute one replica of ``model`` together, as tensor parallelism has it; ``[]`` for one alone.

    Every process must ask at the same time, for parameters that ``fully_shard`` holds are gathered to be looked at.
    """
    found: set[int] = set()
    spread = gathering(model)
    if not spread:
        return sorted(_ranks(model.parameters()))
    for module in spread:
        before = {id(p) for p in module.parameters()}
        if any(_dimensions(p) > 1 for p in module.parameters()):  # of one dimension is the mesh that holds the parts
            module.unshard()  # type: ignore[operator]
            found.update(_ranks(p for p in module.parameters() if id(p) not in before))
            module.reshard()  # type: ignore[operator]
    return sorted(found)


def reshard(model: nn.Module) -> None:
    """Let ``fully_shard`` free what it has gathered, so that parameters are held in parts."""
    for module in gathering(model):
        module.reshard()  # type: ignore[operator]


def _ranks(parameters: Iterable[Tensor]) -> set[int]:
    shards = (p for p in parameters if is_shard(p))
    return {int(rank) for p in shards for rank in p.device_mesh.mesh.flatten()}  # type: ignore[attr-defined]


def _dimensions(parameter: Tensor) -> int:
    return int(parameter.device_mesh.ndim) if is_shard(parameter) else 0  # type: ignore[attr-defined]


def _placements(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.placements)  # type: ignore[attr-defined]

"""What ``fully_shard`` keeps outside of the model: which module is the root, and gradients that are not reduced yet.

None of it is public, and it has moved between releases of torch: what is not there is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from initaudit.probe.restore import refill
from initaudit.probe.shards import gathering, reshard

# As a step of training has it in which every gradient is that of its own batch.
_OF_ONE_STEP = {
    "reduce_grads": True,
    "all_reduce_grads": True,
    "reshard_after_backward": True,
    "is_last_backward": True,
    "gradient_divide_factor": None,
    "_partial_reduce_output": None,
}


@contextmanager
def set_aside(model: nn.Module) -> Iterator[None]:
    """Inside and afterwards ``fully_shard`` holds parts; inside, a step is one of its own; afterwards all is as it was.

    Without this the first audit would settle which module is the root, and the gradients of an audit would be added to
    those of micro-batches that wait for the last one.
    """
    reshard(model)
    states = _states(model)
    groups = [group for state in states for group in _groups(state)]
    contexts = {id(c): c for state in states if (c := getattr(state, "_state_ctx", None)) is not None}.values()
    kept = [_Kept(owner) for owner in (*states, *contexts, *groups)]
    orders = [order for group in groups if (order := getattr(group.comm_ctx, "post_forward_order", None)) is not None]
    order_contents = [list(order) for order in orders]
    waiting = [_Waiting(p) for group in groups for p in group.fsdp_params]
    for one in kept:
        one.begin_step()
    for pending in waiting:
        pending.take()
    try:
        yield
    finally:
        reshard(model)
        for one in kept:
            one.restore()
        for order, content in zip(orders, order_contents, strict=True):
            refill(order, content)
        for pending in waiting:
            pending.restore()


class _Kept:
    """The attributes of an object, with what is in its containers."""

    def __init__(self, owner: Any) -> None:
        self._attributes: dict[str, Any] = vars(owner)
        self._before = self._attributes.copy()
        self._containers = [(v, v.copy()) for v in self._before.values() if isinstance(v, dict | list | set)]

    def begin_step(self) -> None:
        self._attributes.update((k, v) for k, v in _OF_ONE_STEP.items() if k in self._attributes)

    def restore(self) -> None:
        refill(self._attributes, self._before)
        for value, content in self._containers:
            refill(value, content)


class _Waiting:
    """The gradients of a parameter that wait to be reduced."""

    def __init__(self, parameter: Any) -> None:
        self._parameter = parameter
        self._gathered = getattr(parameter, "_unsharded_param", None)  # made by the first forward pass
        self._accumulated = getattr(parameter, "unsharded_accumulated_grad", None)
        self._gradient = None if self._gathered is None else self._gathered.grad

    def take(self) -> None:
        self._put(None, None)

    def restore(self) -> None:
        self._put(self._accumulated, self._gradient)

    def _put(self, accumulated: Any, gradient: Any) -> None:
        self._parameter.unsharded_accumulated_grad = accumulated
        if self._gathered is not None:
            self._gathered.grad = gradient


def _states(model: nn.Module) -> list[Any]:
    """Those of the modules of ``model``, and of the others with which they run backward."""
    own = [m._get_fsdp_state() for m in gathering(model) if hasattr(m, "_get_fsdp_state")]  # type: ignore[operator]
    others = [s for state in own for s in getattr(getattr(state, "_state_ctx", None), "all_states", ())]
    return list({id(state): state for state in (*own, *others)}.values())


def _groups(state: Any) -> list[Any]:
    """The groups of parameters that are gathered together; in older releases a state has one at most."""
    groups = getattr(state, "_fsdp_param_groups", None)
    return [g for g in ([state._fsdp_param_group] if groups is None else groups) if g is not None]

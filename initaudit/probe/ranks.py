"""The processes of a ``torch.distributed`` job that audit one model together.

Under data parallelism each of them has a *replica* of the model and some rows of the batch. Under tensor parallelism
several *members* compute one replica together, from the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initaudit.errors import AuditError, UsageError
from initaudit.probe import shards
from initaudit.probe.whole import norm_and_check, norm_and_total, stacked

_BUCKET = 1 << 22  # gradients summed at a time, so that a second copy of all is never there


class _Seen(Protocol):
    name: str
    scope: str
    shape: tuple[int, ...]
    live: bool
    output: bool
    input_measurement: Any
    measurement: Any
    gradient: Any


def gather(value: Any) -> list[Any]:
    """The value of every rank, in their order."""
    found: list[Any] = [None] * dist.get_world_size()
    with _answered():
        dist.all_gather_object(found, value)
    return found


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and nccl's own words for a process that has ended, or is too late
        reason = str(error).splitlines()[0]
        raise AuditError("load", f"another rank no longer answers; see what it says. ({reason})") from error


def agree_on(value: Any) -> bool:
    """Whether the value is the same on every rank, as its ``repr`` tells."""
    return len(set(gather(sha256(repr(value).encode()).hexdigest()))) == 1


@contextmanager
def together() -> Iterator[None]:
    """What fails on one rank inside fails on all, so that none waits for another.

    Raises:
        AuditError: the ranks on which nothing failed tell what failed on another; its stage is that of the failure.
    """
    failure: BaseException | None = None
    try:
        yield
    except (Exception, SystemExit) as error:
        failure = error
    told = failure and (getattr(failure, "stage", "load"), str(failure) or type(failure).__name__)
    failures = gather(told)
    if failure is not None:
        raise failure
    for rank, other in enumerate(failures):
        if other is not None:
            stage, message = other
            # With a cause, as an error of the model's own has: inferred inputs are then tried in step.
            raise AuditError(stage, f"rank {rank} failed: {message}") from RuntimeError(message)


class Ranks:
    """Who takes part; every process must make one for its replica of ``model`` at the same time.

    Raises:
        AuditError: the processes do not hold the same model, or not in equal parts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        shapes = [(name, None if is_lazy(p) else tuple(p.shape)) for name, p in model.named_parameters()]
        made = (shards.class_of(model).__name__, shapes)
        if not agree_on(made):
            raise AuditError("load", _unlike(gather(made)))
        mine = shards.partners(model) or [self.rank]
        self.replicas: list[list[int]] = sorted({tuple(group): group for group in gather(mine)}.values())
        self.members = len(mine)
        if sorted(rank for group in self.replicas for rank in group) != list(range(self.size)):
            raise AuditError(
                "load",
                f"the ranks do not fall into equal groups that share one replica: {self.replicas}; expected every one "
                f"of {self.size} ranks in one group",
            )
        self.replica = self.replicas.index(mine)
        self.member = mine.index(self.rank)
        self.shares_out = False  # whether each replica's inputs are cut from one batch, along their first dimension

    def __len__(self) -> int:
        """The number of replicas, which is that of the shares of the batch."""
        return len(self.replicas)

    # -- what all must know ----------------------------------------------------------------------------------------

    def add_up(self, tensor: Tensor) -> None:
        """Put in place of ``tensor`` its sum over all ranks."""
        with _answered():
            dist.all_reduce(tensor)

    def same_calls(self, nodes: Sequence[_Seen], model: nn.Module) -> None:
        """Raise AuditError where ranks ran different calls, or hold different values in what is no shard.

        Of a call on which a rank had nothing to measure, such as an expert without tokens, no figures can be merged.
        """
        calls = [
            (node.name, node.scope, len(node.shape), node.live, node.output, *(m is not None for m in _measured(node)))
            for node in nodes
        ]
        if not agree_on(calls):
            at, other, found = _first_difference(gather(calls))
            here, there = map(_told, found)
            if here == there:
                here, there = f"{here} ({_apart(*found)})", f"{there} ({_apart(found[1], found[0])})"
            raise AuditError(
                "forward",
                f"the ranks ran different calls: number {at} is {here} on rank 0 and {there} on rank {other}; give "
                "every rank inputs of one kind, of which every part of the model gets some on each rank",
            )
        values = {
            name: tensor_sums(p) for name, p in model.named_parameters() if not shards.is_shard(p) and not is_lazy(p)
        }
        if not agree_on(values):
            told = gather(values)
            name = next(n for n in values if len({str(theirs[n]) for theirs in told}) > 1)
            raise AuditError(
                "load",
                f"{name} has other values on some ranks; seed every rank alike or wrap the model in "
                "DistributedDataParallel, which copies the values of rank 0",
            )

    # -- shares of the batch ---------------------------------------------------------------------------------------

    def rows(self, tensor: Tensor, batch: int, positions: int | None = None) -> Tensor:
        """The rows of this rank's replica, of a tensor that holds ``batch`` samples; any other tensor is left whole.

        ``positions`` is the length of the samples.

        Raises:
            UsageError: the samples cannot be shared out equally, or not told from positions.
        """
        if not tensor.dim() or tensor.shape[0] != batch:
            return tensor
        is_integer = not (tensor.is_floating_point() or tensor.dtype is torch.bool)
        if positions == batch and tuple(tensor.shape) == (batch, batch) and not is_integer:
            raise UsageError(
                f"an input of shape {list(tensor.shape)} may be a mask of pairs of positions or have a row for each of "
                f"{batch} samples; give inputs with another number of samples than of positions"
            )
        if batch % len(self):
            raise UsageError(
                f"a batch of {batch} samples cannot be shared out equally among {len(self)} ranks; "
                f"give inputs with a multiple of {len(self)} samples"
            )
        share = batch // len(self)
        return tensor[self.replica * share : (self.replica + 1) * share]

    # -- gradients of parameters -----------------------------------------------------------------------------------

    @torch.no_grad()
    def parameter_gradients(self, model: nn.Module) -> dict[str, tuple[float, int]]:
        """``(rms, number of non-finite)`` of the gradients of the whole batch by name; they are freed.

        Each ``grad`` is that of this rank's rows, or where ``fully_shard`` has reduced it the mean over the replicas.
        """
        reduced = {id(p) for module in shards.gathering(model) for p in module.parameters() if shards.is_shard(p)}
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and not is_lazy(p)]
        found: dict[str, Tensor] = {}
        bucket: list[tuple[str, nn.Parameter]] = []
        size = 0
        for name, p in named:
            if id(p) in reduced:
                found[name] = self._told(p, p.grad, times=len(self))
                p.grad = None
                continue
            bucket.append((name, p))
            size += p.numel()
            if size > _BUCKET:
                found.update(self._summed(bucket))
                bucket, size = [], 0
        found.update(self._summed(bucket))
        if not found:
            return {}
        table = torch.stack([found[name] for name, _ in named])
        self.add_up(table)
        return {
            name: (math.sqrt(square / max(1, p.numel())), int(not math.isfinite(check)))
            for (name, p), (square, check, seen) in zip(named, table.tolist(), strict=True)
            if seen
        }

    def _summed(self, bucket: list[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
        """What :meth:`_told` tells of each gradient, summed over the replicas."""
        if not bucket:
            return
        grads = [_plain(p) for _, p in bucket]
        work = torch.promote_types(max((g.dtype for g in grads), key=lambda d: d.itemsize), torch.float32)
        seen = torch.tensor([p.grad is not None for _, p in bucket], dtype=work, device=grads[0].device)
        flat = torch.cat([seen, *(g.flatten().to(work) for g in grads)])
        for _, p in bucket:
            p.grad = None
        if len(self) > 1:
            places = flat.new_zeros(self.members, len(flat))
            places[self.member] = flat
            self.add_up(places)
            flat = places[self.member]
        start = len(bucket)
        for (name, p), grad, was_seen in zip(bucket, grads, flat[: len(bucket)], strict=True):
            yield name, self._told(p, flat[start : start + grad.numel()], seen=was_seen)
            start += grad.numel()

    def _told(self, p: nn.Parameter, grad: Tensor | None, times: int = 1, seen: Tensor | None = None) -> Tensor:
        """Square of the norm, a number that is finite where all are, and whether there is one; ``(3,)``.

        The first is shared among the ranks that tell the same.
        """
        part = None if grad is None else shards.local(grad)
        device = p.device if part is None else part.device
        answer = torch.zeros(3, dtype=torch.float64, device=device)
        if part is None:
            return answer
        copies = self.size / (shards.parts(p) if shards.is_shard(p) else 1)
        if part.numel():
            norm, check = stacked([norm_and_check(part.contiguous())])[0]
            answer[0], answer[1] = (norm * times).square() / copies, check
        answer[2] = 1 if seen is None else seen
        return answer


def _plain(p: nn.Parameter) -> Tensor:
    """The gradient as this rank holds it, real and dense; zeros where there is none."""
    grad = p.grad
    if grad is None:
        held = shards.local(p)
        assert held is not None  # a parameter is never an unfinished sum
        grad = torch.zeros_like(held)
    elif shards.is_shard(grad):
        # An unfinished sum over the members, or the whole on each of them, is brought to the parts of the parameter.
        part = shards.local(shards.placed_as(grad, p))
        assert part is not None
        grad = part
    grad = grad.to_dense() if grad.is_sparse else grad
    return torch.view_as_real(grad) if grad.is_complex() else grad


def tensor_sums(tensor: Tensor) -> tuple[float, float]:
    """Two sums that tell tensors of one shape apart; zeros for what has no values to compare."""
    values = tensor.detach()
    if values.is_meta or values.is_complex() or not values.numel():
        return 0.0, 0.0
    norm, total = norm_and_total(values if values.is_floating_point() else values.double())
    return float(total), float(norm)


def _measured(node: _Seen) -> tuple[Any, Any, Any]:
    return node.input_measurement, node.measurement, node.gradient


def _first_difference(every: list[list[Any]]) -> tuple[int, int, tuple[Any, Any]]:
    """The place of the first difference to the list of rank 0, another rank that has it, and what the two have there.

    ``None`` stands for the end of a list.
    """
    at = next(i for i in range(max(map(len, every))) if len({_at(found, i) for found in every}) > 1)
    other = next(rank for rank, found in enumerate(every) if _at(found, at) != _at(every[0], at))
    return at, other, (_at(every[0], at), _at(every[other], at))


def _at(found: list[Any], place: int) -> Any:
    return found[place] if place < len(found) else None


def _unlike(every: list[tuple[str, list[Any]]]) -> str:
    """The first difference between the models of the ranks: their class, and name and shape of each parameter."""
    kinds = [kind for kind, _ in every]
    if len(set(kinds)) > 1:
        rank = next(rank for rank, kind in enumerate(kinds) if kind != kinds[0])
        what, here, there = "the class", kinds[0], kinds[rank]
    else:
        at, rank, found = _first_difference([shapes for _, shapes in every])
        what, (here, there) = f"parameter number {at}", map(_shaped, found)
    return (
        f"the ranks hold different models: {what} is {here} on rank 0 and {there} on rank {rank}; "
        "every rank must build the same one"
    )


def _shaped(parameter: Any) -> str:
    if parameter is None:
        return "missing"
    name, shape = parameter
    return f"{name} {'without a shape yet' if shape is None else list(shape)}"


def _told(call: Any) -> str:
    return "no call" if call is None else f"{call[0]} in {call[1] or 'the model'}"


def _apart(call: Any, other: Any) -> str:
    """What tells a call from another one of its name."""
    facts = ("dimensions", "reached by the input", "returned", "input measured", "output measured", "gradient measured")
    pairs = zip(facts, call[2:], other[2:], strict=True)
    return ", ".join(f"{fact}: {a}" for fact, a, b in pairs if a != b)

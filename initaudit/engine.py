"""The audit of one model, end to end: build it, find inputs, probe, diagnose."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initaudit.choices import DTYPES
from initaudit.errors import AuditError, UsageError
from initaudit.probe.builds import Origin, compare_builds, copies_within, with_origin
from initaudit.probe.clock import Clock
from initaudit.probe.garbage import earlier_objects_left_alone
from initaudit.probe.joining import is_cut, is_joinable, joined, share_of, unwrapped
from initaudit.probe.ranks import Ranks, together
from initaudit.probe.restore import random_state
from initaudit.probe.run import Loss, probe
from initaudit.probe.shards import class_of
from initaudit.probe.unwritten import build_and_mark
from initaudit.records import Report, Trace
from initaudit.rules import diagnose
from initaudit.rules.draws import audit_draws
from initaudit.target.inputs import Inputs, as_inputs, candidate_inputs, none_ran
from initaudit.target.load import Target
from initaudit.target.losses import resolve_loss

Progress = Callable[[str], None]
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


def audit(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Any = None,
    *,
    loss: Loss | str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    seeds: int = 1,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    distributed: bool | None = None,
) -> Report:
    """Audit the initialization of ``model`` and return the :class:`~initaudit.records.Report`.

    Args:
        model: an ``nn.Module``, which is left exactly as it was, or a factory that takes no argument and returns one.
        inputs: a tensor is one positional argument, a tuple positional arguments, a mapping keyword arguments, a
            string such as ``"float32[32,64]"`` a random tensor; ``None`` takes what the model offers or infers it from
            its first layers.
        loss: called with the model's output, must return a scalar tensor; by default a seeded Gaussian cotangent of
            unit variance drives the backward pass.
        device, dtype: where and in what precision to run; by default where and as the model is. A model that would
            have to move is copied.
        seed: of the factory, the inferred inputs, dropout and the cotangent.
        seeds: how many draws to build and audit, with the seeds ``seed``, ``seed + 1``, ...; more than one needs a
            factory. The report then holds the findings over all draws: one that fewer than half of them have is an
            unlucky draw, and one severity milder. Its layers are those of the first draw.
        select, ignore: rule codes, names or prefixes of codes.
        distributed: in a ``torch.distributed`` job, whether all ranks audit together: every rank calls with its share
            of the batch, and gets the report of the whole. By default they do where the model is wrapped in
            ``DistributedDataParallel``, or its parameters are held in parts (``fully_shard``, tensor parallelism).

    Raises:
        AuditError: the model could not be built or run, or the ranks do not fit together; ``stage`` tells where.
        UsageError: an argument makes no sense.
    """
    if isinstance(model, nn.Module):
        name = class_of(model).__name__
        target = Target(id=name, name=name, factory=lambda: model, is_factory=False)
    elif callable(model):
        name = getattr(model, "__qualname__", type(model).__name__)
        target = Target(id=name, name=name, factory=model)
    else:
        raise UsageError(
            f"model is {type(model).__name__!r}, expected an nn.Module or a function without arguments that returns one"
        )
    return audit_target(
        target,
        inputs=inputs,
        loss=loss,
        device=device,
        dtype=dtype,
        seed=seed,
        seeds=seeds,
        select=select,
        ignore=ignore,
        distributed=distributed,
    )


def audit_target(
    target: Target,
    *,
    seed: int = 0,
    seeds: int = 1,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    **options: Any,
) -> Report:
    """Audit one collected target, or ``seeds`` draws of it; ``options`` are those of :func:`probe_target`."""
    started = time.perf_counter()
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}, expected a number of draws of 1 or more")
    if seeds > 1 and not target.is_factory:
        raise UsageError(
            f"seeds is {seeds}, but {target.id} is built already: pass a class or a function that builds it anew"
        )
    drawn = range(seed, seed + seeds)
    report = audit_draws(
        drawn,
        lambda number: probe_target(target, seed=number, compare=number == seed, **options),
        earlier_objects_left_alone()(partial(diagnose, select=select or (), ignore=ignore or ())),
    )
    return replace(report, target=target.id, seconds=time.perf_counter() - started)


def probe_target(
    target: Target,
    *,
    inputs: Any = None,
    loss: Loss | str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    compare: bool = True,
    distributed: bool | None = None,
    progress: Progress = lambda stage: None,
) -> Trace:
    """Build and run one collected target, with the sample input and the loss that its file offers.

    ``compare`` builds a factory's model twice more, to see what a second build repeats and what another seed changes.
    """
    progress("building")
    building: list[float] = []

    def build(number: int) -> nn.Module:
        clock = Clock()
        with clock.running():
            made = _build(target, number)
        building.append(clock.seconds)
        return made

    with together() if distributed and is_joinable() else nullcontext():
        model, unwritten = (
            build_and_mark(partial(build, seed)) if target.is_factory else (build(seed), frozenset[str]())
        )
    ranks = joined(model, distributed)
    model = unwrapped(model)
    with _in_step(ranks):
        if is_cut(model):
            _check_stays(model, device, dtype)
            device = dtype = None
        again = target.is_factory and compare
        origin = compare_builds(model, lambda n: unwrapped(build(n)), seed) if again else Origin()
        origin = replace(origin, copies=copies_within(model))
        loss = resolve_loss(loss, target.module)
    trace = _run(
        model,
        unwritten=unwritten,
        owned=target.is_factory,
        given=inputs,
        target=target.id,
        module=target.module,
        name=target.name,
        loss=loss,
        device=device,
        dtype=dtype,
        seed=seed,
        ranks=ranks,
        progress=progress,
    )
    return with_origin(replace(trace, build_seconds=building[0]), origin)


def resolve_device(device: str | torch.device | None) -> torch.device | None:
    """The device that ``auto``, ``cpu``, ``cuda[:N]`` or ``mps`` names; ``None`` stays ``None``.

    Raises:
        UsageError: unknown, or not present on this machine.
    """
    if device is None:
        return None
    if device == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {str(device)!r} cannot be used: {reason}; expected auto, cpu, cuda, cuda:N or mps"
        ) from error
    return found


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The floating dtype of that name; ``None`` stays ``None``."""
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in _DTYPES.values():
        raise UsageError(f"dtype {str(dtype)!r} is not supported, expected one of {', '.join(DTYPES)}")
    return found


def _check_stays(model: nn.Module, device: str | torch.device | None, dtype: str | torch.dtype | None) -> None:
    """Raise UsageError where a model that is held in parts would have to move."""
    place, precision = None if device == "auto" else resolve_device(device), resolve_dtype(dtype)
    for tensor in (p for p in model.parameters() if p.is_floating_point()):
        here = tensor.device
        stays = place is None or (place.type == here.type and place.index in (None, here.index))
        if not stays or precision not in (None, tensor.dtype):
            raise UsageError(
                f"{place if not stays else precision} cannot be given for a model held in parts, which runs where and "
                f"as it is: here on {here} as {tensor.dtype}"
            )


def _build(target: Target, seed: int) -> nn.Module:
    with random_state(seed):
        return target.build()


def _run(
    model: nn.Module,
    *,
    unwritten: frozenset[str],
    owned: bool,
    given: Any,
    target: str,
    module: Any = None,
    name: str | None = None,
    loss: Loss | None,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    seed: int,
    ranks: Ranks | None = None,
    progress: Progress = lambda stage: None,
) -> Trace:
    with _in_step(ranks):
        model, place, precision = _place(model, owned, resolve_device(device), resolve_dtype(dtype))
    progress("finding inputs")
    failed: list[tuple[Inputs, BaseException]] = []
    candidates = candidate_inputs(model, given=given, module=module, name=name, seed=seed)
    for candidate, fed in _each_in_step(((c, c.to(place or "cpu", precision)) for c in candidates), ranks):
        described = fed.describe()
        if ranks is not None:
            own = given is not None and fed.source == as_inputs(()).source
            fed, described = share_of(fed, ranks, is_whole=not own)
        try:
            return probe(
                model,
                fed.args,
                fed.kwargs,
                target=target,
                inputs=described,
                inputs_source=fed.source,
                loss=loss,
                seed=seed,
                unwritten=unwritten,
                ranks=ranks,
                progress=progress,
            )
        except AuditError as error:
            if error.stage != "forward" or error.__cause__ is None or not candidate.source.startswith("inferred"):
                raise
            failed.append((candidate, error.__cause__))
    raise none_ran(model, failed)


def _in_step(ranks: Ranks | None) -> AbstractContextManager[None]:
    """What fails inside on one of the ranks fails on all of them."""
    return together() if ranks is not None else nullcontext()


def _each_in_step(candidates: Iterator[tuple[Inputs, Inputs]], ranks: Ranks | None) -> Iterator[tuple[Inputs, Inputs]]:
    while True:
        with _in_step(ranks):
            candidate = next(candidates, None)
        if candidate is None:
            return
        yield candidate


def _place(
    model: nn.Module, owned: bool, device: torch.device | None, dtype: torch.dtype | None
) -> tuple[nn.Module, torch.device | None, torch.dtype | None]:
    """The model where it is wanted (moved when it is ours, else a copy), with device and dtype for its inputs."""
    tensors = [*model.parameters(), *model.buffers()]
    lazy = any(is_lazy(t) for t in tensors)
    floating = [t for t in tensors if not is_lazy(t) and t.is_floating_point()]
    if any(t.is_inference() for t in floating):
        raise AuditError(
            "load", "the model was built under torch.inference_mode, where nothing has a gradient; build it outside"
        )
    if any(t.is_meta for t in floating):
        raise AuditError(
            "load", "the model is on the meta device, where there are no values to audit; build it on cpu or cuda"
        )
    moves = any(
        (device is not None and t.device != device) or (dtype is not None and t.dtype != dtype) for t in floating
    )
    if (lazy or moves) and not owned:
        try:
            model = copy.deepcopy(model)
        except Exception as error:
            raise AuditError(
                "load", f"the model must be copied to be moved or materialized, and copying failed: {error}"
            ) from error
    if moves:
        model = model.to(device=device, dtype=dtype)
    first = floating[0] if floating else None
    return (
        model,
        device or (first.device if first is not None else None),
        dtype or (first.dtype if first is not None else None),
    )

"""Applying settings, and with them a report's advice, to the model."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from initaudit.advice.plan import Planner, Reach
from initaudit.advice.settings import CENTRE, LENGTH, Setting, arguments_of
from initaudit.errors import UsageError
from initaudit.probe import shards
from initaudit.probe.joining import drawing_alike, unwrapped
from initaudit.records import Report, Severity


@torch.no_grad()
def reinitialize_(
    model: nn.Module, report: Report, *, generator: torch.Generator | None = None
) -> dict[str, tuple[float, float]]:
    """Initialize anew, in place, what ``report`` advises to.

    For every finding above a note that carries advice, the layers that it names and those it lists as affected are
    drawn anew with ``generator`` or torch's global one, each by the rule of :mod:`initaudit.advice.plan`; their biases
    become zero, the gains of the norms beside them one, and what the finding's own line of advice says of another
    parameter is done for all that it affects. What is already as it should be stays, within four times its sampling
    error; so does an affected layer that is all zeros, which is done on purpose. A tied weight is drawn once.

    Returns what changed: the name of each parameter in ``named_parameters()`` and its std before and after; of a
    constant (a bias, a gain), its rms.

    A model in ``DistributedDataParallel``, ``fully_shard`` or tensor parallelism is initialized by all its processes at
    once, each of which must call; all draw what the first one does.

    Raises:
        UsageError: ``report`` is of a model that could not be audited, or of another model.
    """
    inner = unwrapped(model)
    shards.reshard(inner)
    _check_same(inner, report)
    assert report.trace is not None
    advised = tuple(f for f in report.findings if f.advice is not None or f.severity is Severity.NOTE)
    with drawing_alike(model, generator):
        return apply_(inner, Planner(report.trace, advised).plan(Reach.NAMED), generator=generator)


@torch.no_grad()
def apply_(
    model: nn.Module, settings: Iterable[Setting], *, generator: torch.Generator | None = None
) -> dict[str, tuple[float, float]]:
    """Carry out ``settings`` in place, weights before biases; what changed, as :func:`reinitialize_` returns it."""
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    changed: dict[str, tuple[float, float]] = {}
    done: set[tuple[int, tuple[int, int] | None]] = set()
    for setting in sorted(settings, key=lambda s: s.is_computed):
        tensor = parameters[setting.parameter]
        if (id(tensor), setting.rows) in done:
            continue
        done.add((id(tensor), setting.rows))
        measure = _std if setting.draws else _rms
        values = shards.whole(tensor)
        before = changed.get(setting.parameter, (measure(values), 0.0))[0]
        _set_(values, setting, model, generator)
        if values is not tensor:
            shards.spread_(tensor, values)
            values = shards.whole(tensor)
        changed[setting.parameter] = (before, measure(values))
    return changed


def _set_(tensor: Tensor, setting: Setting, model: nn.Module, generator: torch.Generator | None) -> None:
    if setting.scheme == CENTRE:
        weight = shards.whole(model.get_parameter(setting.of))
        sums = weight.sum(*arguments_of(setting)[0]) if setting.arguments else weight.flatten(1).sum(1)
        tensor.copy_(-setting.value * sums)
        return
    if setting.scheme == LENGTH:
        tensor.copy_(torch.norm_except_dim(shards.whole(model.get_parameter(setting.of)), *arguments_of(setting)[0]))
        return
    part = tensor if setting.rows is None else tensor[slice(*setting.rows)]
    positional, keywords = arguments_of(setting)
    if setting.draws:
        keywords["generator"] = generator
    padding = padding_row(model, setting.parameter) if setting.draws else None
    for block in part.chunk(setting.blocks):
        if setting.scheme == "orthogonal_":  # the QR decomposition knows no half precision
            block.copy_(nn.init.orthogonal_(torch.empty_like(block, dtype=torch.float32), *positional, **keywords))
        else:
            getattr(nn.init, setting.scheme)(block, *positional, **keywords)
    if padding is not None:
        tensor[padding] = 0.0


def padding_row(model: nn.Module, parameter: str) -> int | None:
    """The row of an embedding that stands for padding, and stays zero."""
    padding: int | None = getattr(model.get_submodule(parameter.rpartition(".")[0]), "padding_idx", None)
    return padding


def _check_same(model: nn.Module, report: Report) -> None:
    """Raises UsageError unless the report is of this model, as far as names and shapes tell."""
    if report.trace is None:
        reason = f" ({report.error.message})" if report.error else ""
        raise UsageError(f"the report of {report.target} holds no audit{reason}: audit the model again first")
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found = report.trace.parameters
    missing = next((p.fqn for p in found if p.fqn not in parameters), None)
    if missing is not None:
        raise UsageError(f"the report is of another model: it has a parameter {missing!r}, this model has none")
    if found and all(tuple(parameters[p.fqn].shape) != p.shape for p in found):
        first = found[0]
        here = tuple(parameters[first.fqn].shape)
        raise UsageError(f"the report is of another model: {first.fqn!r} was of shape {first.shape}, here it is {here}")


def _std(tensor: Tensor) -> float:
    return float(tensor.double().std(correction=0))


def _rms(tensor: Tensor) -> float:
    return math.sqrt(float(tensor.double().square().mean()))

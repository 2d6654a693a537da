"""Applying a report's advice to the model it was made from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from initaudit.advice.recommend import advise
from initaudit.errors import UsageError
from initaudit.records import Advice, Finding, Layer, Parameter, Report, Severity


@torch.no_grad()
def reinitialize_(
    model: nn.Module, report: Report, *, generator: torch.Generator | None = None
) -> dict[str, tuple[float, float]]:
    """Initialize anew, in place, the layers that ``report`` advises to, and set their biases to zero.

    For every finding above a note that carries advice, the layer it names and those it lists as affected are drawn
    from the law that :func:`~initaudit.advice.recommend.advise` gives them, with ``generator`` or torch's global one.
    A layer whose std is already that of the advice, within twice its sampling error, stays as it is, and so does an
    affected layer that is all zeros: that is done on purpose. A tied weight is drawn once.

    Returns what changed: the name of each parameter in ``named_parameters()`` and its std before and after.

    Raises:
        UsageError: ``report`` is of a model that could not be audited, or of another model.
    """
    parameters = _parameters_of(model, report)
    changed: dict[str, tuple[float, float]] = {}
    done: set[int] = set()
    for layer, advice in _cures(report):
        weight = parameters.get(layer.weight.fqn)
        if weight is None or tuple(weight.shape) != layer.weight.shape:
            continue  # computed from several parameters, as under weight_norm: none of them is the weight
        if id(weight) in done or advice.std is None or not _differs(layer.weight, advice):
            continue
        done.add(id(weight))
        before = _std(weight)
        _draw_(weight, layer, advice, generator)
        changed[layer.weight.fqn] = (before, _std(weight))
        bias = parameters.get(layer.bias.fqn) if layer.bias else None
        if layer.bias and bias is not None and bool(bias.any()):
            before = _std(bias)
            bias.zero_()
            changed[layer.bias.fqn] = (before, 0.0)
    return changed


def _parameters_of(model: nn.Module, report: Report) -> dict[str, Tensor]:
    """The model's parameters by every name they have, once it is sure that the report is of this model."""
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
    return parameters


def _cures(report: Report) -> list[tuple[Layer, Advice]]:
    """Each layer to mend with its advice; what a finding says of its own layer goes before what follows from it."""
    own: list[tuple[Layer, Advice]] = []
    following: list[tuple[Layer, Advice]] = []
    for finding in report.findings:
        if finding.advice is None or finding.severity is Severity.NOTE:
            continue
        for layer in report.layers:
            if layer.fqn == finding.fqn:
                own.append((layer, _advice_for(layer, finding)))
            elif layer.fqn in finding.affected and not _zeros(layer.weight):
                following.append((layer, advise(layer)))
    return own + following


def _advice_for(layer: Layer, finding: Finding) -> Advice:
    """A module may own several weights (a recurrence, an attention); the finding's advice is for one of them."""
    if finding.advice is not None and f"({layer.weight_access}" in finding.advice.code:
        return finding.advice
    return advise(layer)


def _zeros(weight: Parameter) -> bool:
    return weight.constant and weight.min == 0.0


def _differs(weight: Parameter, advice: Advice) -> bool:
    """Whether the weight is not already what the advice would draw, by its std, its mean or its symmetry."""
    if weight.constant or weight.identical_rows or weight.nonfinite or weight.unwritten or not advice.std:
        return True
    count = max(1, math.prod(weight.shape))
    off_mean = abs(weight.mean) > 5 * weight.std / math.sqrt(count)
    return off_mean or not abs(weight.std / advice.std - 1) <= 2 * weight.std_uncertainty


def _draw_(weight: Tensor, layer: Layer, advice: Advice, generator: torch.Generator | None) -> None:
    std = advice.std or 0.0
    padding = (weight == 0).all(-1) if "embedding" in layer.kind.casefold() and not _zeros(layer.weight) else None
    if advice.scheme.startswith("orthogonal"):
        rows, columns = weight.shape[0], weight[0].numel()
        drawn = torch.empty_like(weight, dtype=torch.float32)  # the QR decomposition knows no half precision
        weight.copy_(nn.init.orthogonal_(drawn, gain=std * math.sqrt(max(rows, columns)), generator=generator))
    elif "uniform" in advice.scheme:
        weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)
    else:
        weight.normal_(0.0, std, generator=generator)
    if padding is not None:
        weight[padding] = 0.0


def _std(tensor: Tensor) -> float:
    return float(tensor.double().std(correction=0))

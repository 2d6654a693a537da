"""Gains of any elementwise function that torch can evaluate: named, imported, a module, or written out by hand.

torch is imported when a function is first evaluated, not with this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from initaudit.errors import UnknownActivationError
from initaudit.records import Activation
from initaudit.theory.evaluate import Evaluator, check_elementwise, quiet_torch
from initaudit.theory.gains import (
    GainAnalysis,
    GateMoments,
    Moments,
    TabulatedMoments,
    analyse_moments,
    inverse_root,
    tabulate_moments,
)
from initaudit.theory.quadrature import WIDE_REACH, tabulate
from initaudit.theory.resolve import ResolvedActivation, Spec, resolve_activation
from initaudit.theory.saturation import FlatEnds, flat_ends_of
from initaudit.theory.spelling import plain

if TYPE_CHECKING:
    from initaudit.theory.activations import Match

__all__ = [
    "ResolvedActivation",
    "analyse",
    "describe",
    "flat_ends",
    "gain",
    "is_elementwise",
    "moments_of",
    "resolve_activation",
    "saturation_bounds",
]


def is_elementwise(fn: Spec) -> bool:
    """True when each output depends on the input at its own place alone, in the same way at every place.

    Raises ``UnknownActivationError`` that says what was seen otherwise (softmax, norms, dropout, GLU ...).
    """
    check_elementwise(Evaluator(resolve_activation(fn)))
    return True


def analyse(spec: Spec | ResolvedActivation) -> GainAnalysis:
    """Gains, fixed points and stability of an activation, by quadrature in float64.

    What is given by name keeps that name, and ``same_as`` is then the known activation that it is. Raises
    ``UnknownActivationError`` for what cannot be found or evaluated, is not elementwise, or has no second moment.
    """
    named = isinstance(spec, (str, ResolvedActivation))
    resolved = spec if isinstance(spec, ResolvedActivation) else resolve_activation(spec)
    evaluator, moments = _moments(resolved, wide_moments)
    match = _recognise(evaluator) if _has_one_curve(evaluator) else None
    torch_name = match.torch_name if match else None
    slope = match.negative_slope if match else None
    return analyse_moments(
        resolved.name if named or match is None else match.name,
        moments,
        torch_name=torch_name,
        torch_gain=_torch_gain(torch_name, slope),
        negative_slope=slope,
        same_as=_known_as(resolved, match) if named and match else None,
    )


def _known_as(resolved: ResolvedActivation, match: Match) -> str | None:
    """The known activation that one given by another name is; of affine maps only the identity is one."""
    affine = match.name == "linear" and match.torch_name is None
    return None if affine or _is_name_of(resolved.name, match.name) else match.name


def _is_name_of(given: str, known: str) -> bool:
    """Whether ``"torch.nn:LeakyReLU(0.2)"`` says the same as ``"leaky_relu"``."""
    from initaudit.theory.activations import canonical_name

    here, there = (name.rpartition(":")[2].partition("(")[0] for name in (given, known))
    return plain(here) == plain(there) or canonical_name(here) == canonical_name(there) is not None


def moments_of(spec: Spec | ResolvedActivation) -> Moments:
    """Expectations over ``N(0, q)`` of an activation and its derivative; raises ``UnknownActivationError``."""
    return _moments(spec if isinstance(spec, ResolvedActivation) else resolve_activation(spec), wide_moments)[1]


def _moments(
    resolved: ResolvedActivation, tabulated: Callable[[Evaluator], TabulatedMoments]
) -> tuple[Evaluator, Moments]:
    evaluator = Evaluator(resolved)
    check_elementwise(evaluator)
    try:
        inner = tabulated(evaluator)
    except ValueError as error:
        raise UnknownActivationError(
            f"{resolved.name} has no gain: it, or a power of it, is {error}, and it must be finite for every input"
        ) from error
    if math.isinf(inner.at(1.0).second_moment):
        raise UnknownActivationError(
            f"{resolved.name} has no gain: E[phi(z)^2] does not converge. It has a pole, grows faster than "
            "exp(z^2/4), or oscillates faster than quadrature can follow"
        )
    return evaluator, GateMoments(inner) if resolved.gate else inner


def _unit_moments(evaluator: Evaluator) -> TabulatedMoments:
    """Moments for ``q = 1``, which is all that the two gains need."""
    return TabulatedMoments(tabulate(evaluator.rows, tolerance=evaluator.tolerance))


def wide_moments(evaluator: Evaluator) -> TabulatedMoments:
    """Moments for every q, or for q near 1 alone where the function overflows far out."""
    ends = np.array([-WIDE_REACH, WIDE_REACH])
    with np.errstate(all="ignore"):
        if np.isfinite(evaluator.rows(ends)).all():
            return tabulate_moments(evaluator.rows, tolerance=evaluator.tolerance)
        return _unit_moments(evaluator)


def _torch_gain(torch_name: str | None, negative_slope: float | None) -> float | None:
    if torch_name is None:
        return None
    from torch.nn.init import calculate_gain

    return float(calculate_gain(torch_name, negative_slope))  # type: ignore[arg-type]


def gain(activation: Spec, *, backward: bool = False) -> float:
    """The gain that keeps the mean square of the signal through a layer and this activation.

    Forward ``1/sqrt(E[phi(z)^2])`` (He et al. 2015), with ``backward=True`` ``1/sqrt(E[phi'(z)^2])``, z ~ N(0, 1).
    ``activation`` is a name, ``"package.module:attr"``, an ``nn.Module`` or a callable on tensors. Raises
    ``UnknownActivationError``.

    >>> round(gain("relu"), 4)
    1.4142
    """
    unit = _moments(resolve_activation(activation), _unit_moments)[1].at(1.0)
    return inverse_root(unit.derivative_second_moment if backward else unit.second_moment)


def _recognise(evaluator: Evaluator) -> Match | None:
    import torch

    from initaudit.theory.activations import recognise

    # Off the round numbers, where the value at a step is a matter of taste.
    x = evaluator.tensor(np.concatenate([[-20.1], np.linspace(-8, 8, 129) + 0.00137, [20.1]]))
    tolerance = max(2e-6, 2 * evaluator.resolution)
    with quiet_torch(evaluator.resolved.device), torch.no_grad():
        return recognise(lambda t: evaluator.call(t).detach(), x, tolerance=tolerance)


def describe(fn: Spec, *, device: str | None = None) -> Activation:
    """Gains and name of an elementwise function, by its values: a hand-written GELU is named ``"gelu"``.

    The name is that of a known activation (``"elu(0.5)"`` with its numbers, ``"1.702*relu"`` times a constant),
    ``"linear"`` for an affine map, else ``"custom"``. ``device`` is where the function wants its input.
    Raises ``UnknownActivationError`` for what is not elementwise or cannot be evaluated.
    """
    resolved = _on(fn, device)
    evaluator, moments = _moments(resolved, _unit_moments)
    unit = moments.at(1.0)
    gains = inverse_root(unit.second_moment), inverse_root(unit.derivative_second_moment)
    if not _has_one_curve(evaluator):
        return Activation(resolved.name.lower(), *gains)
    match = _recognise(evaluator)
    ends = flat_ends_of(evaluator)
    return Activation(
        match.name if match else "custom",
        *gains,
        torch_name=match.torch_name if match else None,
        negative_slope=match.negative_slope if match else None,
        saturating=ends.y_lower is not None and ends.y_upper is not None,
    )


def flat_ends(fn: Spec, *, device: str | None = None) -> FlatEnds:
    """Inputs and outputs where an activation goes flat: see :func:`~initaudit.theory.saturation.flat_ends_of`."""
    return flat_ends_of(Evaluator(_on(fn, device)))


def saturation_bounds(fn: Spec, *, device: str | None = None) -> tuple[float | None, float | None]:
    """Outputs (lower, upper) beyond which a unit is saturated, ``None`` where that end is not flat.

    >>> low, high = saturation_bounds("tanh")
    >>> round(high, 3)
    0.985
    """
    ends = flat_ends(fn, device=device)
    return ends.y_lower, ends.y_upper


def _on(fn: Spec, device: str | None) -> ResolvedActivation:
    resolved = resolve_activation(fn)
    return resolved if device is None else replace(resolved, device=device)


def _has_one_curve(evaluator: Evaluator) -> bool:
    """False for a gate, a slope per channel or a random slope: no single curve to recognise."""
    return not evaluator.resolved.gate and not evaluator.layout and evaluator.resolved.slopes is None

"""Gains of any elementwise function that torch can evaluate: named, imported, a module, or written out by hand.

torch is imported when a function is first evaluated, not with this module.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from initaudit.errors import UnknownActivationError
from initaudit.records import Activation
from initaudit.theory.evaluate import Evaluator, check_elementwise, quiet_torch
from initaudit.theory.gains import (
    Expectations,
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

if TYPE_CHECKING:
    from initaudit.theory.activations import Match

__all__ = [
    "ResolvedActivation",
    "analyse",
    "describe",
    "flat_ends",
    "gain",
    "is_elementwise",
    "resolve_activation",
    "saturation_bounds",
]


def is_elementwise(fn: Spec) -> bool:
    """True when each output depends on the input at its own place alone, in the same way at every place.

    Raises ``UnknownActivationError`` that says what was seen otherwise (softmax, norms, dropout, GLU ...).
    """
    check_elementwise(Evaluator(resolve_activation(fn)))
    return True


def analyse(spec: Spec) -> GainAnalysis:
    """Gains, fixed points and stability of an activation, by quadrature in float64.

    Raises ``UnknownActivationError`` for what cannot be found, evaluated, differentiated, or is not elementwise.
    """
    resolved = resolve_activation(spec)
    evaluator = Evaluator(resolved)
    check_elementwise(evaluator)
    try:
        inner = _wide_moments(evaluator)
    except ValueError as error:
        raise UnknownActivationError(
            f"{resolved.name} has no gain: it is {error}, and it must be finite for every input"
        ) from error
    moments: Moments = GateMoments(inner) if resolved.gate else inner
    match = _recognise(evaluator) if _has_one_curve(resolved) else None
    torch_name = match.torch_name if match else None
    slope = match.negative_slope if match else None
    return analyse_moments(
        resolved.name if isinstance(spec, str) or match is None else match.name,
        moments,
        torch_name=torch_name,
        torch_gain=_torch_gain(torch_name, slope),
        negative_slope=slope,
    )


def _wide_moments(evaluator: Evaluator) -> TabulatedMoments:
    """Moments for every q, or for q near 1 alone where the function overflows far out."""
    ends = np.array([-WIDE_REACH, WIDE_REACH])
    with np.errstate(all="ignore"):
        if np.isfinite(evaluator.rows(ends)).all():
            return tabulate_moments(evaluator.rows, tolerance=evaluator.tolerance)
        return TabulatedMoments(tabulate(evaluator.rows, tolerance=evaluator.tolerance))


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
    _, unit = _unit_expectations(resolve_activation(activation))
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
    evaluator, unit = _unit_expectations(resolved)
    gains = inverse_root(unit.second_moment), inverse_root(unit.derivative_second_moment)
    if not _has_one_curve(resolved):
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


def _has_one_curve(resolved: ResolvedActivation) -> bool:
    """False for a gate, a slope per channel or a random slope: no single curve to recognise."""
    return not resolved.gate and resolved.channels == 1 and resolved.slopes is None


def _unit_expectations(resolved: ResolvedActivation) -> tuple[Evaluator, Expectations]:
    """Expectations at ``q = 1``, which is all that the two gains need."""
    evaluator = Evaluator(resolved)
    check_elementwise(evaluator)
    try:
        inner = TabulatedMoments(tabulate(evaluator.rows, tolerance=evaluator.tolerance))
    except ValueError as error:
        raise UnknownActivationError(
            f"{resolved.name} has no gain: it is {error}, and it must be finite for every input"
        ) from error
    return evaluator, (GateMoments(inner) if resolved.gate else inner).at(1.0)

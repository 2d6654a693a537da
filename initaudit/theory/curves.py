"""An activation as curves: itself, and what its moments do at every size of the signal. torch is imported when used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from initaudit.theory.elementwise import moments_of
from initaudit.theory.evaluate import Evaluator
from initaudit.theory.quadrature import Array
from initaudit.theory.resolve import ResolvedActivation, Spec, resolve_activation

_REACH, _POINTS = 4.0, 401  # of the activation's own curve
_DECADES, _SIZES = 2.0, 161  # of the mean square, to both sides of 1


@dataclass(frozen=True, slots=True)
class Curves:
    """``phi`` and ``derivative`` at ``x``; ``E[phi^2]`` and ``E[phi'^2]`` over ``N(0, q)`` at each ``q``.

    Of a gate ``a * phi(b)`` the first two are those of its inner function, the moments those of the whole.
    """

    x: Array
    phi: Array
    derivative: Array
    q: Array
    second_moment: Array
    derivative_second_moment: Array


def curves(spec: Spec | ResolvedActivation) -> Curves:
    """The curves of an activation, by quadrature in float64; means over channels where these differ.

    Raises ``UnknownActivationError`` for what cannot be found or evaluated, or has no second moment.
    """
    resolved = spec if isinstance(spec, ResolvedActivation) else resolve_activation(spec)
    moments = moments_of(resolved)
    x = np.linspace(-_REACH, _REACH, _POINTS)
    phi, derivative = (values.astype(np.float64).reshape(len(x), -1).mean(axis=1) for values in Evaluator(resolved)(x))
    low, high = moments.limits
    sizes = np.logspace(-_DECADES, _DECADES, _SIZES)
    q = sizes[(sizes >= low * (1 - 1e-9)) & (sizes <= high * (1 + 1e-9))]
    found = [moments.at(float(size)) for size in q]
    return Curves(
        x=x,
        phi=phi,
        derivative=derivative,
        q=q,
        second_moment=np.array([each.second_moment for each in found]),
        derivative_second_moment=np.array([each.derivative_second_moment for each in found]),
    )

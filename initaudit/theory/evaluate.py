"""Evaluates an activation and its derivative with torch, and checks that it is one. torch is imported when used."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from initaudit.errors import UnknownActivationError
from initaudit.theory.gains import moment_rows
from initaudit.theory.quadrature import TOLERANCE, Array
from initaudit.theory.resolve import ResolvedActivation

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Evaluator:
    """Evaluates a resolved activation and its derivative at numpy points, in the best precision it works in."""

    def __init__(self, resolved: ResolvedActivation) -> None:
        import torch

        self.resolved = resolved
        n = resolved.channels
        layouts: tuple[tuple[int, ...], ...] = ((), (n,), (n, 1), (n, 1, 1)) if n > 1 else ((),)
        single = torch.device(resolved.device).type == "mps"
        y = self._first_that_works(torch.float32 if single else torch.float64, layouts)
        # Relative rounding of what the function computes in, whatever it is fed.
        self.resolution = _resolution(y)
        self.tolerance = max(TOLERANCE, 4 * self.resolution)

    def _first_that_works(self, dtype: torch.dtype, layouts: tuple[tuple[int, ...], ...]) -> Array:
        """Settle on a precision and on where the channels stand behind the points; values at a few points."""
        import torch

        first_failure: UnknownActivationError | None = None
        for kind in dict.fromkeys((dtype, torch.float32)):
            self._use(kind)
            for layout in layouts:
                self._layout = layout
                try:
                    y = self(np.random.default_rng(2).standard_normal(64))[0]
                    if len(layouts) > 1:
                        check_elementwise(self)
                        _check_channels(self)
                    return y
                except UnknownActivationError as failure:
                    first_failure = first_failure or failure
        assert first_failure is not None
        raise first_failure from first_failure.__cause__

    def _use(self, dtype: torch.dtype) -> None:
        import torch

        self.dtype = dtype
        if isinstance(self.resolved.fn, torch.nn.Module):
            with torch.inference_mode(False):  # or its parameters could not be differentiated through
                self.resolved.fn.to(dtype)  # resolve_activation made this copy

    def tensor(self, x: Array) -> Tensor:
        """``x`` in the function's precision, shape (n,), or (n, channels, ...) with the same in each channel."""
        import torch

        points = torch.tensor(x, dtype=self.dtype, device=self.resolved.device)
        if not self._layout:
            return points
        return points.reshape(-1, *(1 for _ in self._layout)).repeat(1, *self._layout)

    def call(self, x: Tensor) -> Tensor:
        """The function at ``x``, checked to have kept the shape; a copy is passed, as it may work in place."""
        import torch

        name = self.resolved.name
        try:
            y = self.resolved.fn(x.clone())
        except Exception as error:
            raise UnknownActivationError(
                f"{name} fails on {_kind(x)}{list(x.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(y, torch.Tensor) or y.shape != x.shape:
            got = f"{_kind(y)}{list(y.shape)}" if isinstance(y, torch.Tensor) else type(y)
            raise UnknownActivationError(
                f"{name} is not elementwise: it made {got} of an input of shape {list(x.shape)}"
            )
        if not y.is_floating_point():
            raise UnknownActivationError(
                f"{name} makes {_kind(y)} values, which carry no signal: return them as numbers, `.to(x.dtype)`"
            )
        return y

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """phi and phi' at ``x``, each of shape (n,) or (n, channels, ...)."""
        import torch

        with quiet_torch(self.resolved.device):
            leaf = self.tensor(x).requires_grad_()
            y = self.call(leaf)
            slope: Tensor | None = None
            if y.requires_grad:
                try:
                    (slope,) = torch.autograd.grad(y.sum(), leaf, allow_unused=True)
                except RuntimeError as error:
                    if "is not implemented" in str(error):  # as of heaviside: nothing passes back
                        return to_numpy(y), np.zeros_like(to_numpy(y))
                    raise UnknownActivationError(
                        f"{self.resolved.name} cannot be differentiated by autograd: {error}"
                    ) from error
            slope = torch.zeros_like(leaf) if slope is None else slope
            return to_numpy(y), to_numpy(slope)

    @property
    def layout(self) -> tuple[int, ...]:
        """What follows the points in the shape of an input: ``()``, or the channels wherever the function has them."""
        return self._layout

    def rows(self, x: Array) -> Array:
        """Rows of moments at ``x``; channels and random slopes are averaged over."""
        phi, dphi = self(x)
        phi, dphi = phi.astype(np.float64), dphi.astype(np.float64)
        if self.resolved.slopes is not None:
            return _random_slope_rows(x, *self.resolved.slopes)
        if phi.ndim == 1:
            return moment_rows(phi, dphi)
        averaged: Array = moment_rows(phi, dphi).reshape(4, len(x), -1).mean(axis=-1)
        return averaged


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _resolution(y: Array) -> float:
    """Rounding of the coarsest float type that holds all of ``y``; 0 in float64, or where few values tell nothing."""
    import torch

    values = torch.as_tensor(y, device="cpu")
    if np.unique(y).size <= 8:
        return 0.0
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if torch.equal(values.to(dtype).to(values.dtype), values):
            return torch.finfo(dtype).eps / 2
    return 0.0


def to_numpy(tensor: Tensor) -> Array:
    """Values of a tensor on any device and of any float type."""
    import torch

    values = tensor.detach().cpu()
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    result: Array = values.numpy()
    return result


def _random_slope_rows(x: Array, low: float, high: float) -> Array:
    """Moments of ``x`` above zero and ``a x`` below, a ~ U(low, high): ``E[a^k]`` in closed form."""

    def power(k: int) -> float:
        return sum(low**i * high ** (k - i) for i in range(k + 1)) / (k + 1)

    below = x < 0
    moments = [np.where(below, power(k), 1.0) for k in (1, 2, 4)]
    return np.stack([moments[0] * x, moments[1] * x**2, moments[1], moments[2] * x**4])


@contextlib.contextmanager
def quiet_torch(device: str) -> Iterator[None]:
    """Gradients on, autocast off, no warnings, and every generator as it was afterwards."""
    import torch

    kind = torch.device(device).type
    devices = [torch.device(device)] if kind == "cuda" else []
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(kind, enabled=False) if kind in ("cpu", "cuda") else contextlib.nullcontext(),
    ):
        warnings.simplefilter("ignore")
        yield


def check_elementwise(evaluator: Evaluator) -> None:
    """Raise ``UnknownActivationError`` unless each output depends on the input at its own place alone."""
    import torch

    name = evaluator.resolved.name
    points = np.random.default_rng(0).standard_normal(64)
    order = np.random.default_rng(1).permutation(64)
    mixed = np.concatenate([points[:32], 3 * points[32:] - 1])
    with quiet_torch(evaluator.resolved.device), torch.no_grad():
        y, again, permuted, partly = (
            to_numpy(evaluator.call(evaluator.tensor(x))) for x in (points, points, points[order], mixed)
        )

    def same(a: Array, b: Array) -> bool:
        largest = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
        return bool(np.allclose(a, b, rtol=1e-5, atol=1e-6 * largest, equal_nan=True))

    if not same(y, again):
        raise UnknownActivationError(
            f"{name} is random: it gave two answers to one input, so it has no gain of its own. Put it in eval() mode, "
            "or leave out what is random in it"
        )
    if not same(permuted, y[order]):
        raise UnknownActivationError(f"{name} is not elementwise: places of the input are treated differently")
    if not same(partly[:32], y[:32]):
        raise UnknownActivationError(
            f"{name} is not elementwise: an output depends on the whole input, as in softmax "
            "or a norm, so no single gain describes it"
        )


def _check_channels(evaluator: Evaluator) -> None:
    """Raise ``UnknownActivationError`` where one channel sees another, as in a layer that mixes them."""
    import torch

    if not evaluator.layout:
        return
    x = evaluator.tensor(np.random.default_rng(3).standard_normal(8))
    with quiet_torch(evaluator.resolved.device), torch.no_grad():
        before = evaluator.call(x)
        x[:, 0] += 1
        after = evaluator.call(x)
    if not torch.allclose(before[:, 1:], after[:, 1:], equal_nan=True):
        raise UnknownActivationError(
            f"{evaluator.resolved.name} is not elementwise: it mixes the channels of its input"
        )

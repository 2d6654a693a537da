"""From a name, an import path, a module or a callable to a function that can be evaluated.

torch is imported when used, not with this module.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Union

from initaudit.errors import UnknownActivationError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Spec = Union[str, "torch.nn.Module", "type[torch.nn.Module]", "Callable[[Tensor], Tensor]"]
"""A name, ``"package.module:attr"``, a module or its class, or a callable on tensors."""


@dataclass(frozen=True, slots=True)
class ResolvedActivation:
    """An activation ready to be evaluated: ``fn`` maps a tensor to one of the same shape.

    ``gate``: ``fn`` is the inner function of ``a * fn(b)`` over two halves. ``channels`` > 1: ``fn`` wants
    shape (n, channels) and each channel has its own function. ``slopes``: the negative slope is drawn uniformly
    from this interval for each element (RReLU in training mode), and ``fn`` has the mean slope.
    """

    name: str
    fn: Callable[[Tensor], Tensor]
    gate: bool = False
    channels: int = 1
    slopes: tuple[float, float] | None = None
    device: str = "cpu"


def resolve_activation(spec: Spec) -> ResolvedActivation:
    """Find an activation from a name, ``"package.module:attr"``, a module or a callable.

    A name may carry numbers: ``"leaky_relu(0.2)"``. A module is copied, so that it is never changed, and evaluated
    with its own parameters in its own training mode. Raises ``UnknownActivationError``.
    """
    import torch

    if isinstance(spec, str):
        return _import_activation(spec) if ":" in spec else _named(spec)
    if isinstance(spec, torch.nn.Module):
        return _from_module(spec)
    if isinstance(spec, type) and issubclass(spec, torch.nn.Module):
        try:
            return _from_module(spec())
        except TypeError as error:
            raise UnknownActivationError(
                f"{spec.__name__} cannot be built without arguments ({error}): pass an instance of it"
            ) from error
    if not isinstance(spec, type) and callable(spec):
        return ResolvedActivation(getattr(spec, "__name__", type(spec).__name__), spec)
    raise UnknownActivationError(
        f"{spec!r} is not an activation: expected a name, 'package.module:attr', a module or a callable"
    )


def _named(spec: str) -> ResolvedActivation:
    from initaudit.theory import activations

    parsed = activations.parse(spec)
    if parsed is None:
        if spec.strip().lower() == "rrelu":
            import torch

            return _from_module(torch.nn.RReLU())
        close = get_close_matches(spec.strip().lower(), activations.KNOWN, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(c) for c in close)}?" if close else "`initaudit gain` lists the names."
        raise UnknownActivationError(
            f"unknown activation {spec!r}: {hint} Any other function can be given as 'package.module:attr'."
        )
    name, numbers = parsed
    if name in activations.GATES:
        return ResolvedActivation(name, activations.FORMS[activations.GATES[name]], gate=True)
    form = activations.FORMS[name]
    shown = f"{name}({', '.join(f'{n:g}' for n in numbers)})" if numbers else name
    return ResolvedActivation(shown, lambda x: form(x, *numbers))


def _import_activation(spec: str) -> ResolvedActivation:
    module_name, _, path = spec.partition(":")
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownActivationError(
            f"cannot import {spec!r}: {error}. Expected 'package.module:attr', as in 'torch.nn.functional:silu'."
        ) from error
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(here)
    return resolve_activation(found)  # type: ignore[arg-type]


def _from_module(module: torch.nn.Module) -> ResolvedActivation:
    import torch
    from torch import nn

    name = type(module).__name__
    if isinstance(module, nn.GLU):
        return _named("glu")
    if isinstance(module, nn.RReLU) and module.training:
        low, high = module.lower, module.upper
        mean = (low + high) / 2
        return ResolvedActivation(name, nn.LeakyReLU(mean), slopes=(low, high))
    with torch.inference_mode(False):  # or the copy could not be differentiated through
        own = copy.deepcopy(module).cpu()  # where there is float64
    for part in own.modules():
        part._forward_hooks.clear()  # a hook may write into what its owner still holds
        part._forward_pre_hooks.clear()
    channels = own.num_parameters if isinstance(own, nn.PReLU) else 1
    return ResolvedActivation(name, own, channels=channels)

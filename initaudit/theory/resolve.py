"""From a name, an import path, a module or a callable to a function that can be evaluated.

torch is imported when used, not with this module.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import reduce
from typing import TYPE_CHECKING, Any, Union

from initaudit.errors import UnknownActivationError
from initaudit.theory.spelling import Spelling, plain, spelled, why_no_gain, without_prefix

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Spec = Union[str, "torch.nn.Module", "type[torch.nn.Module]", "Callable[[Tensor], Tensor]"]
"""A name, ``"package.module:attr"``, a module or its class, or a callable on tensors."""

_MOST_CHANNELS = 4096
_WORDS = re.compile(r"[^(*]*(\([A-Za-z_\s='\"]*\))?")  # "gelu(tanh)" is a name; "relu(2)" is not "relu2"
_OWN_NUMBERS = ("prelu", "sin", "silu")  # known activations with a number that torch's function of that name lacks


@dataclass(frozen=True, slots=True)
class ResolvedActivation:
    """An activation ready to be evaluated: ``fn`` maps a tensor to one of the same shape.

    ``gate``: ``fn`` is the inner function of ``a * fn(b)`` over two halves. ``channels`` > 1: each of so many channels
    may have a function of its own. ``slopes``: the negative slope is drawn uniformly
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

    A name may carry arguments, ``"leaky_relu(0.2)"`` or ``"torch.nn:ELU(alpha=0.5)"``, and a factor, ``"1.7*silu"``.
    A module is copied, so that it is never changed, and evaluated with its own parameters in its own training mode.
    Raises ``UnknownActivationError``.
    """
    if not isinstance(spec, str):
        return _from_object(spec)
    if ":" not in spec:
        return _named(spec)
    module, _, rest = spec.partition(":")
    return find_in(_imported(module, spec), rest, spec)


def find_in(module: object, rest: str, spec: str) -> ResolvedActivation:
    """The activation that ``rest``, ``"attr"`` or ``"Outer.Inner(0.2)"``, names in an imported module.

    ``spec`` is the whole of what was typed. Raises ``UnknownActivationError``.
    """
    spelling = spelled(rest)
    try:
        found = reduce(getattr, spelling.head.split("."), module)
    except AttributeError as error:
        names = [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")]
        close = get_close_matches(spelling.head, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "expected 'package.module:attr', 'file.py::attr'."
        raise UnknownActivationError(f"cannot import {spec!r}: {error}: {hint}") from error
    return _applied(found, spelling, spec)


def _imported(module: str, spec: str) -> object:
    if module.endswith(".py"):
        raise UnknownActivationError(
            f"cannot import {spec!r}: files are for the command line, `initaudit gain {spec}`. "
            "From Python pass the function itself, or 'package.module:attr'."
        )
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UnknownActivationError(
            f"cannot import {spec!r}: {type(error).__name__}: {error}. "
            "Expected 'package.module:attr', as in 'torch.nn.functional:silu'."
        ) from error
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(here)


def _named(spec: str) -> ResolvedActivation:
    from initaudit.theory import activations

    text = without_prefix(spec)
    whole = activations.canonical_name(text) if _WORDS.fullmatch(text) else None
    spelling = Spelling(text) if whole else spelled(text)
    name = whole or activations.canonical_name(spelling.head)
    bare = not spelling.has_arguments and spelling.factor == 1
    if name in activations.GATES and bare:
        return ResolvedActivation(name, activations.FORMS[activations.GATES[name]], gate=True)
    found = _by_name(spelling, name)
    if found is None:
        raise UnknownActivationError(_unknown(spec, spelling.head))
    return _applied(found, spelling, name if name and bare else text)


def _by_name(spelling: Spelling, name: str | None) -> object | None:
    """A known form, whose known name is ``name``, or what torch has under the name that was typed."""
    from torch import nn

    from initaudit.theory.activations import FORMS

    if plain(spelling.head) == "rrelu":
        return nn.RReLU  # random while training, which F.rrelu is only when told so
    of_torch = _of_torch(spelling.head)
    is_class = isinstance(of_torch, type)
    if name == "prelu" and any(isinstance(value, float) for value in spelling.args):
        return FORMS[name]  # its slope, where nn.PReLU's first argument is a number of channels
    if is_class and (spelling.has_arguments or why_no_gain(spelling.head)):
        return of_torch
    if name in FORMS and (not spelling.has_arguments or name in _OWN_NUMBERS or of_torch is None):
        return FORMS[name]
    return of_torch


def _unknown(spec: str, head: str) -> str:
    from initaudit.theory.activations import KNOWN

    if reason := why_no_gain(head):
        return f"{head} has no gain: it {reason}."
    close = get_close_matches(head.lower(), KNOWN, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}?" if close else "`initaudit gain` lists the names."
    return (
        f"unknown activation {spec!r}: {hint} Numbers go in brackets, 'leaky_relu(0.2)'. "
        "Any other function can be given as 'package.module:attr'."
    )


def _of_torch(name: str) -> object | None:
    """The class of ``torch.nn``, or the function of ``torch.nn.functional`` or ``torch``, that has this very name."""
    import torch

    for home in (torch.nn, torch.nn.functional, torch):
        found = getattr(home, name, None) if name.isidentifier() and not name.startswith("_") else None
        if isinstance(found, type) and issubclass(found, torch.nn.Module):
            return found
        if found is not None and callable(found) and not isinstance(found, type):
            of_torch = home is torch.nn.functional or hasattr(torch.Tensor, name)
            return found if of_torch else None
    return None


def _applied(found: Any, spelling: Spelling, shown: str) -> ResolvedActivation:
    """``found`` with the arguments and the factor of ``spelling``, under the name ``shown``."""
    args, kwargs, factor = spelling.args, dict(spelling.kwargs), spelling.factor
    _check_arguments(found, spelling, shown)
    if isinstance(found, type) and not _is_function(found):
        found, args, kwargs = _built(found, args, kwargs), (), {}
    if args or kwargs:
        function = found
        found = lambda x: function(x, *args, **kwargs)  # noqa: E731
        found.__name__ = shown
    resolved = _from_object(found)
    if factor != 1:
        if resolved.gate or resolved.slopes or resolved.channels > 1:
            raise UnknownActivationError(f"{shown}: a factor is understood before a plain function alone")
        inner = resolved.fn
        return ResolvedActivation(shown, lambda x: factor * inner(x))
    return replace(resolved, name=shown)


def _check_arguments(found: Any, spelling: Spelling, shown: str) -> None:
    """Say what does not fit the signature of ``found``, where it has one: ``relu(3)`` would set inplace to 3."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # a builtin
        return
    first = () if isinstance(found, type) else (None,)
    try:
        given = signature.bind(*first, *spelling.args, **spelling.kwargs).arguments
    except TypeError as error:
        if not spelling.has_arguments:
            return  # said with what the call itself says
        raise UnknownActivationError(f"{shown}: {error}. Its signature is {signature}.") from error
    if not isinstance(given.get("inplace", False), bool):
        raise UnknownActivationError(f"{shown}: {given['inplace']!r} is given for inplace, expected True or False")


def _built(cls: type, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
    given = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
    if _is_torchs(cls) and (reason := why_no_gain(cls.__name__)):
        raise UnknownActivationError(f"{cls.__name__} has no gain: it {reason}.")
    try:
        return cls(*args, **kwargs)
    except Exception as error:
        how = f"from ({given})" if given else "without arguments"
        raise UnknownActivationError(
            f"{cls.__name__} cannot be built {how} ({error}): "
            f"give its arguments, as in '{cls.__name__}(0.2)', or pass an instance of it"
        ) from error


def _is_torchs(found: object) -> bool:
    """Whether torch defines it, and not a user who gave it such a name; torch's builtins have no module."""
    return (getattr(found, "__module__", None) or "torch").partition(".")[0] == "torch"


def _is_function(found: object) -> bool:
    """Whether this is a ``torch.autograd.Function``, which is a class and applied like a function."""
    import torch

    return isinstance(found, type) and issubclass(found, torch.autograd.Function)


def _from_object(spec: Any) -> ResolvedActivation:
    import torch

    if _is_function(spec):
        return ResolvedActivation(spec.__name__, spec.apply)
    if isinstance(spec, type):
        spec = _built(spec, (), {})
    if isinstance(spec, torch.nn.Module):
        return _from_module(spec)
    if not callable(spec):
        raise UnknownActivationError(
            f"{spec!r} is not an activation: expected a name, 'package.module:attr', a module or a callable"
        )
    name = getattr(spec, "__name__", type(spec).__name__)
    if _is_torchs(spec) and (reason := why_no_gain(name)):
        raise UnknownActivationError(f"{name} has no gain: it {reason}.")
    return ResolvedActivation(name, spec)


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
    idle = isinstance(module, nn.modules.dropout._DropoutNd) and not (module.training and module.p)
    if _is_torchs(type(module)) and not idle and (reason := why_no_gain(name)):
        raise UnknownActivationError(f"{name} has no gain: it {reason}.")
    with torch.inference_mode(False):  # or the copy could not be differentiated through
        own = copy.deepcopy(module).cpu()  # where there is float64
    for part in own.modules():
        part._forward_hooks.clear()  # a hook may write into what its owner still holds
        part._forward_pre_hooks.clear()
    return ResolvedActivation(name, own, channels=max(_vectors(own), default=1))


def _vectors(module: torch.nn.Module) -> Iterator[int]:
    """The sizes of the parameters that hold one number per channel."""
    for parameter in module.parameters():
        size = parameter.numel()
        if size == max(parameter.shape, default=1) and 1 < size <= _MOST_CHANNELS:
            yield size

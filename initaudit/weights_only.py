"""``--weights-only``: the weights of a checkpoint or of a model, judged one tensor at a time and never run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initaudit.choices import is_checkpoint
from initaudit.errors import AuditError, UnknownLayerError
from initaudit.probe.access import module_access, parameter_access
from initaudit.probe.checkpoint import read_tensors
from initaudit.probe.deferred import Deferred
from initaudit.probe.restore import random_state
from initaudit.probe.tables import is_mask, no_matrix, unreadable
from initaudit.probe.weights import parameter_record
from initaudit.records import Environment, Layer, Parameter, Trace, Unjudged
from initaudit.rules.paths import is_bias, is_zero
from initaudit.target.frames import user_error
from initaudit.target.load import Target, collect
from initaudit.theory.fans import fan_in_and_fan_out, torch_fans

NOT_RUN = Unjudged(
    "", "--weights-only ran nothing, so that signal, gradient, gains and the loss at the start are unknown"
)
_ZEROS = "zeros: whether a gradient ever reaches them, only a run can tell"
_MASK = "two values, of which one is zero: a mask and not a weight"
_AS_A_WHOLE = (
    "without --weights-only it is built as a whole; where it loads a checkpoint, name that file instead of the model"
)
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as it is met: ``tensor`` makes it, reads it, or says why it is not judged.

    ``module`` is the one that owns it, where known.
    """

    name: str
    tensor: Callable[[], Tensor | str]
    aliases: tuple[str, ...] = ()
    module: nn.Module | None = None
    access: str = ""
    weight_access: str = ""
    requires_grad: bool = True
    unwritten: Callable[[], bool] = lambda: False


def collect_weights(spec: str) -> list[Target]:
    """What :func:`initaudit.target.load.collect` finds, or the checkpoint that ``spec`` names."""
    if not is_checkpoint(spec):
        return collect(spec)

    def no_model() -> nn.Module:
        raise AuditError("load", f"{spec} holds weights and no model to run; audit it with --weights-only")

    return [Target(spec, Path(spec).name, no_model, is_factory=False)]


def read_weights(target: Target, *, seed: int = 0, progress: Progress = lambda stage: None) -> Trace:
    """The trace of a target without a run: its parameters, and a layer without calls for each matrix and kernel.

    Of a factory, the model is built without the memory for it, and then one parameter at a time is made and dropped; of
    a checkpoint, one tensor at a time is read. The peak of memory is that of the largest tensor.

    Raises:
        AuditError, UsageError: the target could not be read or built.
    """
    started = time.perf_counter()
    progress("building")
    parameters, layers, unjudged = [], [], [NOT_RUN]
    for item in _of_checkpoint(target.id) if is_checkpoint(target.id) else _of_model(target, seed):
        found = _described(item, item.tensor())
        if found.parameter is not None:
            parameters.append(found.parameter)
        if found.layer is not None:
            layers.append(found.layer)
        if found.reason:
            unjudged.append(Unjudged(item.name, found.reason))
    if not parameters:
        raise AuditError("load", f"{target.id} holds no floating-point weight")
    return Trace(
        target=target.id,
        environment=Environment(torch.__version__, "cpu", _prevailing_dtype(parameters), seed),
        inputs="none",
        inputs_source="--weights-only",
        loss="none",
        training=False,
        ops=(),
        layers=tuple(layers),
        parameters=tuple(parameters),
        unjudged=tuple(unjudged),
        seconds=time.perf_counter() - started,
    )


def _of_checkpoint(spec: str) -> Iterator[Stored]:
    for name, value in read_tensors(spec):
        yield Stored(name, partial(_itself, value))


def _itself(value: Tensor | str) -> Tensor | str:
    return value


def _of_model(target: Target, seed: int) -> Iterator[Stored]:
    maker, model = _built(target, seed) if target.is_factory else (Deferred(seed), target.build())

    @cache
    def over_zeros() -> tuple[Deferred, dict[str, nn.Parameter]]:
        maker, twin = _built(target, seed, fresh=0.0)
        return maker, dict(twin.named_parameters())

    def unwritten(name: str) -> bool:
        """Of a parameter with NaN in it: whether that was in memory before, and no initializer wrote it."""
        maker, parameters = over_zeros()
        return not maker.make(parameters[name]).isnan().any()

    modules = dict(model.named_modules())
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise AuditError("load", f"{name} is lazy: its shape is known only after a run")
        if parameter.is_meta and not maker.knows(parameter):
            raise AuditError("load", f"{name} is on the meta device, without values; name a function that builds it")
        owner, _, leaf = name.rpartition(".")
        yield Stored(
            name,
            partial(_made, maker, parameter, name),
            tuple(n for n in names[id(parameter)] if n != name),
            modules[owner],
            module_access(modules, owner),
            parameter_access(modules, owner, leaf),
            parameter.requires_grad,
            partial(unwritten, name) if target.is_factory else lambda: False,
        )


def _made(maker: Deferred, parameter: Tensor, name: str) -> Tensor:
    try:
        return maker.make(parameter)
    except Exception as error:
        raise user_error("load", f"could not make {name} by itself", error, _AS_A_WHOLE) from error


def _built(target: Target, seed: int, fresh: float = math.nan) -> tuple[Deferred, nn.Module]:
    maker = Deferred(seed, fresh=fresh)
    try:
        with random_state(seed):
            return maker, maker.build(target.factory)
    except AuditError:
        raise
    except Exception as error:
        problem = f"could not build {target.id} without the memory for its weights"
        raise user_error("load", problem, error, _AS_A_WHOLE) from error


def _prevailing_dtype(parameters: list[Parameter]) -> str:
    """That of most entries: normalizations, many and small, are often kept wider than the matrices."""
    entries: Counter[str] = Counter()
    for parameter in parameters:
        entries[parameter.dtype] += math.prod(parameter.shape)
    return entries.most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class _Described:
    """What is kept of one tensor, and why it, or a part of what could be said of it, is not judged."""

    parameter: Parameter | None = None
    layer: Layer | None = None
    reason: str = ""


def _described(item: Stored, tensor: Tensor | str) -> _Described:
    if isinstance(tensor, str) or (unread := unreadable(tensor)):
        return _Described(reason=tensor if isinstance(tensor, str) else unread)
    tensor = tensor.detach()
    if item.module is None and is_mask(tensor):
        return _Described(reason=_MASK)
    plain = torch_fans(tensor.shape)
    known = _fans_of_module(item) if plain else None
    fans = known or plain
    parameter = parameter_record(
        item.name, tensor, fans=fans, torch_fans=plain, aliases=item.aliases, requires_grad=item.requires_grad
    )
    if parameter.nonfinite and bool(tensor.isnan().any()) and item.unwritten():
        parameter = replace(parameter, unwritten=True, init="never written")
    if plain is None or fans is None or sum(size > 1 for size in tensor.shape) < 2 or is_bias(parameter):
        return _Described(parameter)
    if known is None and (reason := no_matrix(tensor, parameter)):
        return _Described(parameter, reason=reason)
    return _Described(parameter, _layer(item, parameter, fans, plain), _ZEROS if is_zero(parameter) else "")


def _fans_of_module(item: Stored) -> tuple[float, float] | None:
    if item.module is None:
        return None
    try:
        return fan_in_and_fan_out(item.module, item.name.rpartition(".")[2])
    except UnknownLayerError:
        return None


def _layer(item: Stored, weight: Parameter, fans: tuple[float, float], torch_fans: tuple[int, int]) -> Layer:
    owner, _, leaf = item.name.rpartition(".")
    kind = type(item.module).__name__ if item.module is not None else "matrix" if len(weight.shape) == 2 else "kernel"
    return Layer(
        fqn=owner if leaf == "weight" and owner else item.name,
        kind=kind,
        fan_in=fans[0],
        fan_out=fans[1],
        weight=weight,
        bias=None,
        calls=(),
        access=item.access,
        weight_access=item.weight_access,
        torch_fan_in=torch_fans[0],
        torch_fan_out=torch_fans[1],
    )

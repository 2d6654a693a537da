"""``--weights-only``: the weights of a checkpoint or of a model, judged one tensor at a time and never run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initaudit.errors import AuditError, UnknownLayerError
from initaudit.probe.access import module_access, parameter_access
from initaudit.probe.checkpoint import is_checkpoint, read_tensors
from initaudit.probe.deferred import Deferred
from initaudit.probe.restore import random_state
from initaudit.probe.weights import parameter_record
from initaudit.records import Environment, Layer, Parameter, Trace, Unjudged
from initaudit.target.frames import user_error
from initaudit.target.load import Target, collect
from initaudit.theory.fans import fan_in_and_fan_out, torch_fans

NOT_RUN = Unjudged(
    "", "--weights-only ran nothing, so that signal, gradient, gains and the loss at the start are unknown"
)
_ZEROS = "zeros: whether a gradient ever reaches them, only a run can tell"
_TABLE = "not a weight: its entries are {low:.3g} and {high:.3g}, as those of a mask"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as it is met: ``tensor`` makes it, or reads it. ``module`` is the one that owns it, where known."""

    name: str
    tensor: Callable[[], Tensor]
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
        tensor = item.tensor().detach()
        if reason := _no_weight(tensor):
            unjudged.append(Unjudged(item.name, reason))
            continue
        parameter, layer = _described(item, tensor)
        parameters.append(parameter)
        if layer is not None:
            layers.append(layer)
            if parameter.constant and parameter.min == 0:
                unjudged.append(Unjudged(item.name, _ZEROS))
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
    for name, tensor in read_tensors(spec):
        yield Stored(name, partial(_itself, tensor))


def _itself(tensor: Tensor) -> Tensor:
    return tensor


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
        owner, _, leaf = name.rpartition(".")
        yield Stored(
            name,
            partial(maker.make, parameter),
            tuple(n for n in names[id(parameter)] if n != name),
            modules[owner],
            module_access(modules, owner),
            parameter_access(modules, owner, leaf),
            parameter.requires_grad,
            partial(unwritten, name) if target.is_factory else lambda: False,
        )


def _built(target: Target, seed: int, fresh: float = math.nan) -> tuple[Deferred, nn.Module]:
    maker = Deferred(seed, fresh=fresh)
    try:
        with random_state(seed):
            return maker, maker.build(target.factory)
    except Exception as error:
        problem = f"could not build {target.id} without the memory for its weights"
        raise user_error("load", problem, error, "without --weights-only it is built as a whole") from error


def _prevailing_dtype(parameters: list[Parameter]) -> str:
    """That of most entries: normalizations, many and small, are often kept wider than the matrices."""
    entries: Counter[str] = Counter()
    for parameter in parameters:
        entries[parameter.dtype] += math.prod(parameter.shape)
    return entries.most_common(1)[0][0]


def _no_weight(tensor: Tensor) -> str:
    """Why a tensor is none that an initializer fills, or ``""``."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return f"{str(tensor.dtype).removeprefix('torch.')} of {tensor.numel()} entries, not a weight"
    ends = (tensor if tensor.element_size() > 1 else tensor.float()).aminmax()  # float8 has no order of its own
    low, high = (float(end) for end in ends)
    if low < high and max(-low, high) > 1e4 and bool(((tensor == low) | (tensor == high)).all()):
        return _TABLE.format(low=low, high=high)
    return ""


def _described(item: Stored, tensor: Tensor) -> tuple[Parameter, Layer | None]:
    owner, _, leaf = item.name.rpartition(".")
    plain = torch_fans(tensor.shape)
    fans: tuple[float, float] | None = plain
    if item.module is not None and plain is not None:
        with suppress(UnknownLayerError):
            fans = fan_in_and_fan_out(item.module, leaf)
    parameter = parameter_record(
        item.name, tensor, fans=fans, torch_fans=plain, aliases=item.aliases, requires_grad=item.requires_grad
    )
    if parameter.nonfinite and item.unwritten():
        parameter = replace(parameter, unwritten=True, init="never written")
    if plain is None or fans is None or sum(size > 1 for size in tensor.shape) < 2:
        return parameter, None
    kind = type(item.module).__name__ if item.module is not None else "matrix" if tensor.dim() == 2 else "kernel"
    return parameter, Layer(
        fqn=owner if leaf == "weight" and owner else item.name,
        kind=kind,
        fan_in=fans[0],
        fan_out=fans[1],
        weight=parameter,
        bias=None,
        calls=(),
        access=item.access,
        weight_access=item.weight_access,
        torch_fan_in=plain[0],
        torch_fan_out=plain[1],
    )

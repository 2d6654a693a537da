"""Where the values of parameters come from: what a second build repeats, what another seed changes, what was copied.

Two builds are compared parameter by parameter while both are there, so that nothing has to be stored; a model too
large to be held twice is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from initaudit.errors import AuditError
from initaudit.records import Parameter, Trace, Unjudged

LARGEST = 1 << 26  # parameters up to which a model is held twice: 256 MiB of float32
ROUNDING = 1e-3  # of the std: a decomposition may round otherwise the second time, a draw differs by about 1
FEWEST = 16  # values that can be told from a table
REGULAR = 0.5  # correlation of neighbours in a table: two standard errors for 16 independent values, 32 for 4,096
WINDOW = 64  # entries along each dimension that are looked at for it
BLOCK = 1 << 20  # entries compared at a time


@dataclass(frozen=True)
class Origin:
    """What is known of where values came from, by the name of the parameter; a name that is missing is unknown."""

    reproducible: dict[str, bool] = field(default_factory=dict)
    follows_seed: dict[str, bool] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    unjudged: tuple[Unjudged, ...] = ()


def compare_builds(model: nn.Module, build: Callable[[int], nn.Module], seed: int) -> Origin:
    """Build ``model``, which ``build(seed)`` made, twice more, and say what came out alike.

    A build that fails, gives the same object again or would be too large is told as not judged.
    """
    count = sum(p.numel() for p in _tensors(model).values())
    if count > LARGEST:
        reason = f"not built a second time to compare, for it has {count / 1e6:.0f} million parameters"
        return Origin(unjudged=(Unjudged("", f"{reason} (up to {LARGEST / 1e6:.0f} million are)"),))
    try:
        again = build(seed)
        if again is model:
            return Origin(unjudged=(Unjudged("", "its factory gives one and the same model at each call"),))
        reproducible = dict(_compared(model, again, _alike))
        del again
        follows = {name: not same for name, same in _compared(model, build(seed + 1), _equal)}
    except AuditError as error:
        return Origin(unjudged=(Unjudged("", f"it cannot be built a second time: {error}"),))
    tensors = _tensors(model)
    follows = {name: changed for name, changed in follows.items() if changed or is_scattered(tensors[name])}
    return Origin(reproducible, follows)


def copies_within(model: nn.Module) -> dict[str, str]:
    """Matrices and kernels that hold the random-looking values of an earlier one in memory of their own."""
    groups: dict[object, list[tuple[str, Tensor]]] = {}
    for name, tensor in _tensors(model).items():
        if tensor.dim() > 1 and tensor.numel() >= FEWEST:
            groups.setdefault((tensor.shape, tensor.dtype, tensor.device), []).append((name, tensor))
    groups = {kind: members for kind, members in groups.items() if len(members) > 1}
    starts = _starts([tensor for members in groups.values() for _, tensor in members])
    found: dict[str, str] = {}
    for members in groups.values():
        originals: dict[tuple[float, ...], list[tuple[str, Tensor]]] = {}
        for name, tensor in members:
            start = next(starts)
            if len(set(start)) <= FEWEST // 2:  # constants and tables are alike by nature; draws hardly repeat a value
                continue
            earlier = originals.setdefault(start, [])
            twin = next((other for other, values in earlier if _is_copy(tensor, values)), None)
            if twin is None:
                earlier.append((name, tensor))
            else:
                found[name] = twin
    return found


def _starts(tensors: Sequence[Tensor]) -> Iterator[tuple[float, ...]]:
    """The first values of each, in one transfer per device."""
    found: dict[int, tuple[float, ...]] = {}
    for device in {t.device for t in tensors}:
        mine = [i for i, t in enumerate(tensors) if t.device == device]
        heads = torch.stack([tensors[i].reshape(-1)[:FEWEST].to(_widest(device)) for i in mine]).tolist()
        found.update(zip(mine, map(tuple, heads), strict=True))
    return (found[i] for i in range(len(tensors)))


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def with_origin(trace: Trace, origin: Origin) -> Trace:
    """The trace with what is known of each parameter's origin written to its records."""

    def marked(parameter: Parameter) -> Parameter:
        if not any(parameter.fqn in known for known in (origin.reproducible, origin.follows_seed, origin.copies)):
            return parameter
        return replace(
            parameter,
            reproducible=origin.reproducible.get(parameter.fqn),
            follows_seed=origin.follows_seed.get(parameter.fqn),
            copy_of=origin.copies.get(parameter.fqn),
        )

    if origin == Origin():
        return trace
    layers = (
        replace(layer, weight=marked(layer.weight), bias=marked(layer.bias) if layer.bias else None)
        for layer in trace.layers
    )
    return replace(
        trace,
        parameters=tuple(map(marked, trace.parameters)),
        layers=tuple(layers),
        unjudged=(*trace.unjudged, *origin.unjudged),
    )


def is_scattered(tensor: Tensor) -> bool:
    """Whether neighbours know nothing of each other along any dimension, as in a draw and unlike in a table.

    False for what is too small to tell: fewer than 16 entries.
    """
    found = _correlations(tensor) if tensor.numel() >= FEWEST else None
    return found is not None and all(abs(correlation) < REGULAR for correlation in found)


def is_regular(tensor: Tensor) -> bool:
    """Whether entries follow from their neighbours along some dimension, as in a table.

    False for a constant, and for what is too small to tell: fewer than 16 pairs of neighbours, unless a line rises or
    falls all along.
    """
    line = tensor.detach().reshape(-1)[: tensor.shape[-1]].to("cpu", torch.float64)
    steps = line.diff()
    if len(line) >= FEWEST // 2 and bool((steps > 0).all() or (steps < 0).all()):
        return True
    return any(correlation >= REGULAR for correlation in _correlations(tensor) or ())


def _correlations(tensor: Tensor) -> list[float] | None:
    """Of neighbours, along each dimension with pairs enough; ``None`` where all entries are equal."""
    values = tensor.detach()[tuple(slice(WINDOW) for _ in tensor.shape)].to("cpu", torch.float64)
    centred = values - values.mean()
    power = float(centred.square().mean())
    pairs = ((d, centred.numel() - centred.numel() // size) for d, size in enumerate(centred.shape))
    return [_neighbours(centred, d) / power for d, n in pairs if n >= FEWEST] if power > 0 else None


def _neighbours(centred: Tensor, dimension: int) -> float:
    size = centred.shape[dimension]
    return float((centred.narrow(dimension, 1, size - 1) * centred.narrow(dimension, 0, size - 1)).mean())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that hold floating numbers in a plain tensor, by their first name."""
    held = {name: p.detach() for name, p in model.named_parameters() if not is_lazy(p) and not p.is_meta}
    plain = {name: t for name, t in held.items() if type(t) is Tensor and t.layout is torch.strided}
    return {name: t for name, t in plain.items() if t.is_floating_point() and t.numel()}


def _compared(model: nn.Module, other: nn.Module, same: Callable[[Tensor, Tensor], bool]) -> Iterator[tuple[str, bool]]:
    """What ``same`` says of each parameter of ``model``, save for those that both models share."""
    theirs = _tensors(other)
    for name, tensor in _tensors(model).items():
        twin = theirs.get(name)
        if twin is None or not _shares_memory(tensor, twin):
            yield name, twin is not None and same(tensor, twin)


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return torch.equal(a, b) if a.element_size() > 1 else torch.equal(a.float(), b.float())


def _alike(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding; what is NaN in both is equal."""
    if _equal(a, b):
        return True
    if a.shape != b.shape or a.device != b.device:
        return False
    blocks = zip(torch.split(a.reshape(-1), BLOCK), torch.split(b.reshape(-1), BLOCK), strict=True)
    return all(_close(*(part.to("cpu", torch.float64).nan_to_num() for part in pair)) for pair in blocks)


def _close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= ROUNDING * float(a.std(correction=0))


def _shares_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _is_copy(a: Tensor, b: Tensor) -> bool:
    return not _shares_memory(a, b) and torch.equal(a, b) and is_scattered(a)

"""Stds that were measured: where the closed form leaves layers outside their band, each is scaled to unit size.

As layer-sequential unit-variance initialization does (Mishkin & Matas 2016, arXiv:1511.06422), but from the record of a
run, all layers at once: a layer is scaled by its own deviation over that of the layer that feeds it, and the run is
repeated. A layer that is called several times is judged by all its calls together, and a tied weight once. Layers that
the rule starts alike share the mean of what was measured: a single draw's own scatter is no fault of the rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from initaudit.advice.recommend import is_embedding
from initaudit.advice.settings import CENTRE, Setting, arguments_of
from initaudit.advice.surroundings import Surroundings
from initaudit.records import Layer, Trace

NOTE = "measured on the sample input: the rule alone leaves this layer outside of its band"
CLOSE = 0.05  # of unit size, in ln, where nothing is scaled


def scaled(settings: Sequence[Setting], trace: Trace) -> tuple[Setting, ...]:
    """``settings`` with the std of each weight brought to where its layer's outputs have unit rms in ``trace``."""
    factors = dict(_factors(trace))
    shapes = {p.fqn: p.shape for p in trace.parameters}

    def kind(setting: Setting) -> tuple[object, ...]:
        return setting.scheme, setting.arguments, shapes.get(setting.parameter)

    logs: dict[tuple[object, ...], list[float]] = {}
    for setting in settings:
        if setting.draws and setting.parameter in factors:
            logs.setdefault(kind(setting), []).append(math.log(factors[setting.parameter]))
    means = {key: fmean(found) for key, found in logs.items()}
    return tuple(
        _scale(s, math.exp(means[kind(s)])) if s.draws and s.parameter in factors and abs(means[kind(s)]) > CLOSE else s
        for s in settings
    )


def _factors(trace: Trace) -> Iterator[tuple[str, float]]:
    """What the std of each weight is to be multiplied with, by the weight's name."""
    around = Surroundings(trace)
    layers = {layer.fqn: layer for layer in trace.layers}
    for layer in trace.layers:
        size = _size(layer)
        if size is None or is_embedding(layer) or layer.repeats > 1 or layer.fqn in around.branch_ends:
            continue
        before = layers.get(around.layer_before(layer) or "")
        fed = (
            _size(before) if before is not None and before is not layer and before.fqn not in around.branch_ends else 1
        )
        factor = (fed or 1.0) / size
        yield layer.weight.fqn, factor


def _size(layer: Layer) -> float | None:
    """The rms of the layer's outputs over all its calls; ``None`` where it is unknown, zero or not finite."""
    stats = [call.pre_activation for call in layer.calls if call.pre_activation is not None]
    count = sum(s.count for s in stats)
    square = sum(s.rms * s.rms * s.count for s in stats) / count if count else 0.0
    return math.sqrt(square) if 0 < square < math.inf else None


def _scale(setting: Setting, factor: float) -> Setting:
    std = setting.value * factor
    if setting.scheme == "orthogonal_":
        positional, keywords = arguments_of(setting)
        gain = keywords.get("gain", positional[0] if positional else 1.0) * factor
        return replace(setting, arguments=f"gain={gain:.4g}", value=std, note=NOTE)
    if "uniform" in setting.scheme:
        bound = math.sqrt(3) * std
        return Setting(setting.parameter, "uniform_", f"-{bound:.4g}, {bound:.4g}", std, note=NOTE)
    return Setting(setting.parameter, "normal_", f"std={std:.4g}", std, note=NOTE)


def is_measured(settings: Sequence[Setting]) -> bool:
    """Whether any std is one that was measured."""
    return any(setting.note == NOTE for setting in settings if setting.scheme != CENTRE)

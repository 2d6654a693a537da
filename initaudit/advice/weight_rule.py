"""What one weight starts with: the gain between the activations beside it, the law, and the call that gives both.

Weights follow ``Var[w] = gain^2 / fan_in`` (He et al. 2015, arXiv:1502.01852, eq. 10). ReLU and its kin, and functions
that saturate, take the gain of the activation that follows. For the others (GELU, SiLU, ELU ...) it matters that the
first layer's input has passed none: there the gain is that of the activation *before* the layer, 1 where there is none,
since the length map runs away from whatever lies above its unstable fixed point (Poole et al. 2016, arXiv:1606.05340).
In a stack so deep that these let the gradient grow, they are those of :mod:`initaudit.advice.depth`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from initaudit.advice.computed import SPECTRAL, norm_arguments, orthogonal_std
from initaudit.advice.depth import gains_for, mean_of
from initaudit.advice.recommend import Call, call_for, torch_reads_fan_in
from initaudit.advice.settings import CENTRE, LENGTH, OFF_MEAN, Setting, constant, drawn
from initaudit.advice.surroundings import Surroundings
from initaudit.records import Activation, Layer, Parameter, Trace

STANDARD_ERRORS = 4.0  # that a std may be away from the plan's and still be the plan's
SAME = 0.02  # gains closer than this are one


def weight_setting(layer: Layer, around: Surroundings, *, deep: bool) -> Setting:
    """The setting of the weight; ``deep`` asks for what depth asks for, whatever the author chose."""
    if layer.weight.fqn in around.spectral:
        return Setting(layer.weight.fqn, "orthogonal_", value=orthogonal_std(layer), note=SPECTRAL)
    gain, note = _gain_and_note(layer, around, deep=deep)
    call = call_for(layer, layer.nonlinearity, gain, "orthogonal" if deep and _can_be_orthogonal(layer) else None)
    if call.scheme.startswith("xavier") and (note or is_centred(layer, around)):
        # The mean of both fans is for the gain of the activation alone.
        call = Call("normal_", f"std={gain / math.sqrt(layer.fan_in):.4g}", gain / math.sqrt(layer.fan_in))
    setting = drawn(layer, call, gain)
    if not note and setting.scheme in ("normal_", "uniform_") and layer.torch_fan_in and not torch_reads_fan_in(layer):
        note = "torch.nn.init reads another fan_in off the shape than the layer has"
    return replace(setting, note=note)


def length_setting(layer: Layer, around: Surroundings) -> Iterator[Setting]:
    """Under weight normalization the lengths of the rows are a parameter of their own, and start as they were drawn."""
    if length := around.lengths.get(layer.weight.fqn):
        note = "weight_norm keeps the lengths of the rows apart"
        yield Setting(length.fqn, LENGTH, norm_arguments(layer, length), note=note, of=layer.weight.fqn)


def bias_setting(layer: Layer, around: Surroundings) -> Iterator[Setting]:
    """Zero, or what takes off the mean of a sigmoid; nothing where it is so already."""
    if layer.bias is None or not layer.bias.requires_grad:
        return
    before = around.activation_before(layer)
    mean = mean_of(before) if before is not None and is_centred(layer, around) else None
    if before is not None and mean is not None:
        note = f"takes off the mean of the {before.name} before it"
        dims = around.summed(layer) or ()
        over = "" if 0 not in dims else "0" if dims == (0,) else str(dims)
        yield Setting(layer.bias.fqn, CENTRE, over, value=mean, note=note, of=layer.weight.fqn)
    elif not is_zero(layer.bias):
        yield constant(layer.bias.fqn, 0.0)


def is_centred(layer: Layer, around: Surroundings) -> bool:
    """Whether the bias shall take off the mean of a sigmoid, or of another function of that kind, before the layer.

    ``sigmoid(z) - 1/2`` is ``tanh(z/2)/2``: with the mean off, the gain of its slope, 4.72, keeps signal and gradient.
    """
    before = around.activation_before(layer)
    if before is None or layer.bias is None or not layer.bias.requires_grad or mean_of(before) is None:
        return False
    beside = layer.bias.fqn.rpartition(".")[0] in (layer.fqn, layer.weight.fqn.rpartition(".")[0])
    return beside and around.summed(layer) is not None


def _gain_and_note(layer: Layer, around: Surroundings, *, deep: bool) -> tuple[float, str]:
    """The gain, and what the code says of it where it is not that of an activation beside the layer."""
    after, depth = layer.nonlinearity, around.depths.get(layer.fqn, 1)
    gain = _gain(layer, after, around, depth, deep=deep)
    if sums := around.branch_ends.get(layer.fqn):
        return gain / math.sqrt(2 * sums), f"over sqrt(2 * {sums}): so many sums with residual branches"
    share = around.kept_at_borders(layer)
    if share < 1:
        return gain / math.sqrt(share), f"the zeros around the map take off {1 - share:.0%} at each layer"
    if after is not None and not is_centred(layer, around) and gains_for(after, depth):
        return gain, f"keeps signal and gradient through {depth} layers in a row"
    return gain, ""


def _gain(layer: Layer, after: Activation | None, around: Surroundings, depth: int, *, deep: bool) -> float:
    """The gain for a layer between two activations, of ``depth`` layers in a row."""
    before = around.activation_before(layer)
    if before is not None and is_centred(layer, around):
        return before.backward_gain if after is not None else 1.0
    if after is None or mean_of(after) is not None:
        return 1.0
    if (asked := gains_for(after, depth)) is not None:
        return asked.first if before is None else asked.inner
    if deep and after.saturating:
        return 1.0
    if after.saturating or math.isclose(after.gain, after.backward_gain, rel_tol=1e-3):
        return after.gain
    if before is None:
        return 1.0
    return before.backward_gain if deep else before.gain


def is_usual(layer: Layer, gain: float, around: Surroundings) -> bool:
    """Whether a gain is one that the plan would think of by itself: that of an activation beside the layer, or 1."""
    beside = (layer.nonlinearity, around.activation_before(layer))
    gains = (1.0, *(activation.gain for activation in beside if activation is not None))
    return any(math.isclose(gain, usual, rel_tol=SAME) for usual in gains)


def fits(layer: Layer, around: Surroundings) -> bool:
    """Whether the weight is drawn with a gain between those of the activations beside it, and has no other fault."""
    after = layer.nonlinearity
    if layer.fqn in around.branch_ends or around.kept_at_borders(layer) < 1 or layer.weight.fqn in around.spectral:
        return False
    if after is not None and gains_for(after, around.depths.get(layer.fqn, 1)):
        return False
    beside = (after, around.activation_before(layer))
    gains = [g for a in beside for g in ((a.gain, a.backward_gain) if a is not None else (1.0,))]
    nearest = min(max(layer.weight.std * math.sqrt(layer.fan_in), min(gains)), max(gains))
    return not differs(layer.weight, Setting(layer.weight.fqn, "normal_", value=nearest / math.sqrt(layer.fan_in)))


def _can_be_orthogonal(layer: Layer) -> bool:
    return layer.repeats == 1 and len(layer.weight.shape) >= 2 and layer.fan_in == math.prod(layer.weight.shape[1:])


def recurrent_settings(layer: Layer, trace: Trace) -> Iterator[Setting]:
    """What a recurrence starts with: normal for the input, orthogonal for the state, a forget gate that is open.

    Saxe et al. 2014 (arXiv:1312.6120) for the state; Jozefowicz et al. 2015, section 2.2, for the forget bias.
    """
    leaf = layer.weight.fqn.rpartition(".")[2]
    size = layer.weight.shape[0] // max(1, layer.repeats)
    if "_hh" in leaf:
        weight = Setting(layer.weight.fqn, "orthogonal_", value=1 / math.sqrt(layer.fan_in), blocks=layer.repeats)
    else:
        weight = drawn(layer, call_for(layer, None, 1.0), 1.0)
    yield weight
    names = {p.fqn: p for p in trace.parameters}
    bias = names.get(layer.weight.fqn.replace("weight", "bias"))
    if bias is None or not bias.requires_grad:
        return
    if layer.repeats == 4 and "_ih" in leaf:  # torch stacks input, forget, cell and output gate
        if not is_zero(bias):
            yield constant(bias.fqn, 0.0)
        yield replace(constant(bias.fqn, 1.0), rows=(size, 2 * size))
    elif not is_zero(bias):
        yield constant(bias.fqn, 0.0)


def is_zero(parameter: Parameter) -> bool:
    """Whether the parameter is zero throughout."""
    return parameter.constant and parameter.min == 0.0


def differs(weight: Parameter, setting: Setting) -> bool:
    """Whether the weight is not already what the setting draws, by its std, its mean or its symmetry."""
    if weight.constant or weight.identical_rows or weight.nonfinite or weight.unwritten or not setting.value:
        return True
    if setting.scheme == "orthogonal_" and not weight.init.startswith("orthogonal"):
        return True
    count = max(1, math.prod(weight.shape))
    off_mean = abs(weight.mean) > OFF_MEAN * weight.std / math.sqrt(count)
    return off_mean or not abs(weight.std / setting.value - 1) <= STANDARD_ERRORS * weight.std_uncertainty

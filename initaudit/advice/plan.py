"""The whole-model plan: for every parameter that shall change, what it shall start with.

Weights follow ``Var[w] = gain^2 / fan_in`` (He et al. 2015, arXiv:1502.01852, eq. 10). ReLU and its kin, and functions
that saturate, take the gain of the activation that follows. For the others (GELU, SiLU, ELU ...) it matters that the
first layer's input has passed none: there the gain is that of the activation *before* the layer, 1 where there is none,
since the length map runs away from whatever lies above its unstable fixed point (Poole et al. 2016, arXiv:1606.05340).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

from initaudit.advice.recommend import Call, advise, call_for, is_embedding, torch_reads_fan_in
from initaudit.advice.settings import CENTRE, Setting, constant, drawn, from_advice
from initaudit.advice.surroundings import Surroundings
from initaudit.records import Activation, Finding, Layer, Parameter, Severity, Trace

RECURRENT = ("lstm", "gru", "rnn", "LSTM", "GRU", "RNN")
SIGMOID_MEAN = 0.5
OFF_MEAN = 5.0  # standard errors that the mean of a weight may be away from zero
STANDARD_ERRORS = 4.0  # that a std may be away from the plan's and still be the plan's
SAME = 0.02  # gains closer than this are one


class Reach(IntEnum):
    """How much of the model a plan takes in hand; each step includes the one before."""

    OFFSETS = 0  # biases that outweigh a signal and norms, at the layers that findings name or count as affected
    NAMED = 1  # and the weights and biases of these layers
    ALL = 2  # every layer and norm that is not already as it should be
    EVERY = 3  # every layer and norm, as it should be or not: what a measurement starts from
    DEEP = 4  # and what depth asks for: orthogonal, gain 1 where a function saturates, else the gradient's gain


@dataclass(frozen=True)
class Planner:
    """Makes plans from one trace and what was found in it.

    ``follows_advice`` is for a model as its author made it; what a rule says of a plan's own work is not taken up.
    """

    trace: Trace
    findings: tuple[Finding, ...]
    follows_advice: bool = True

    def plan(self, reach: Reach) -> tuple[Setting, ...]:
        """A setting for each parameter that shall change, in the order of the trace's layers; often empty."""
        around = Surroundings(self.trace)
        planned = list(self._settings(around, _named(self.findings), reach))
        whole = {setting.parameter for setting in planned}
        advised = self._advised(around) if self.follows_advice else ()
        chosen: dict[tuple[str, tuple[int, int] | None], Setting] = {}
        for setting in (*(a for a in advised if a.rows is None or a.parameter not in whole), *planned):
            chosen.setdefault((setting.parameter, setting.rows), setting)
        for setting in tuple(chosen.values()):
            for other in self._sharing(setting):
                chosen.setdefault((other, None), replace(setting, parameter=other))
        return tuple(sorted(chosen.values(), key=lambda s: s.rows is not None))

    def _sharing(self, setting: Setting) -> Iterator[str]:
        """Biases and gains of one name that are one constant share a fault, but for those that are meant."""
        if setting.draws or setting.rows is not None or setting.scheme == CENTRE:
            return
        found = next(p for p in self.trace.parameters if p.fqn == setting.parameter)
        for other in self.trace.parameters if found.constant else ():
            alike = other.constant and other.mean == found.mean and other.requires_grad
            if alike and _leaf(other.fqn) == _leaf(found.fqn) and _owner(other.fqn) not in self._meant:
                yield other.fqn

    def _settings(self, around: Surroundings, named: frozenset[str], reach: Reach) -> Iterator[Setting]:
        norms: set[int] = set()
        for layer in self.trace.layers:
            wanted = layer.fqn in named or (reach > Reach.NAMED and not _on_purpose(layer))
            if wanted and (self._is_root(layer) or not _on_purpose(layer)):
                yield from self._layer(layer, around, reach)
                norms |= around.norms_around(layer)
        parameters = {p.fqn: p for p in self.trace.parameters}
        for name, op in around.norm_parameters.items():
            parameter = parameters.get(name)
            if parameter is not None and (reach > Reach.NAMED or op in norms or _owner(name) in named):
                yield from _norm(parameter, on_purpose=_owner(name) in self._meant)

    def _advised(self, around: Surroundings) -> Iterator[Setting]:
        """What a finding advises for something else than the whole weight of a layer, or with a gain of its own."""
        names = frozenset(p.fqn for p in self.trace.parameters)
        weights = {layer.weight.fqn: layer for layer in self.trace.layers}
        for finding in self.findings:
            if finding.advice is None or finding.severity is Severity.NOTE:
                continue
            setting = from_advice(finding.advice, names)
            if setting is None:
                continue
            layer = weights.get(setting.parameter)
            if layer is None or setting.rows is not None:
                yield setting
                for other in self._alike(setting, finding):
                    yield replace(setting, parameter=other)
            elif finding.advice.gain is not None and not _usual(layer, finding.advice.gain, around):
                yield setting

    def _alike(self, setting: Setting, finding: Finding) -> Iterator[str]:
        """The same parameter of what the finding affects: a gain of each norm, say."""
        leaf = _leaf(setting.parameter)
        for parameter in self.trace.parameters if setting.rows is None else ():
            owner, _, name = parameter.fqn.rpartition(".")
            if owner in finding.affected and name == leaf and not setting.draws:
                yield parameter.fqn

    @property
    def _blamed(self) -> frozenset[str]:
        """The layers that a finding advises to draw anew."""
        alarms = (f for f in self.findings if f.severity is not Severity.NOTE)
        return frozenset(f.fqn for f in alarms if f.advice is not None and f.advice.std is not None)

    @cached_property
    def _meant(self) -> frozenset[str]:
        """Where zeros and small scales were found that are there on purpose; not where every norm's gain is zero."""
        norms = Surroundings(self.trace).norm_parameters
        gains = [p for p in self.trace.parameters if p.fqn in norms and not _is_offset(p)]
        if gains and all(_is_zero(p) for p in gains):
            return frozenset()
        notes = [f for f in self.findings if f.severity is Severity.NOTE and f.name == "symmetric-units"]
        return frozenset(name for note in notes for name in (note.fqn, *note.affected))

    def _is_root(self, layer: Layer) -> bool:
        """Whether a finding is about this very layer."""
        alarms = (f for f in self.findings if f.severity is not Severity.NOTE and f.root_cause)
        return any(layer.fqn == f.fqn or (f.name == "symmetric-units" and layer.fqn in f.affected) for f in alarms)

    def _layer(self, layer: Layer, around: Surroundings, reach: Reach) -> Iterator[Setting]:
        """The weight, where it differs from the rule, and the bias."""
        shapes = {p.fqn: p.shape for p in self.trace.parameters}
        if shapes.get(layer.weight.fqn) != layer.weight.shape or _is_computed(self.trace, layer):
            return  # computed from several parameters, as under weight_norm: none of them is the weight
        if layer.kind.startswith(RECURRENT) and reach > Reach.OFFSETS:
            yield from _recurrent(layer, self.trace)
            return
        if is_embedding(layer) and reach > Reach.OFFSETS:
            advice = advise(layer)
            setting = from_advice(advice, frozenset(shapes))
            if setting is not None and differs(layer.weight, setting):
                yield setting
            return
        if reach is Reach.OFFSETS:
            if layer.bias is not None and layer.bias.requires_grad and _outweighs(layer.bias, layer):
                yield constant(layer.bias.fqn, 0.0)
            return
        setting, centred = _weight(layer, around, reach)
        if (reach is Reach.EVERY or differs(layer.weight, setting)) and (
            centred or reach >= Reach.EVERY or layer.fqn in self._blamed or not _fits(layer, around)
        ):
            yield setting
        if layer.bias is not None and layer.bias.requires_grad:
            if centred:
                note = "takes off the mean of the sigmoid before it"
                yield Setting(layer.bias.fqn, CENTRE, value=SIGMOID_MEAN, note=note)
            elif not _is_zero(layer.bias):
                yield constant(layer.bias.fqn, 0.0)


def _on_purpose(layer: Layer) -> bool:
    """All zeros, which only a finding of its own makes a fault; or frozen."""
    return _is_zero(layer.weight) or not layer.weight.requires_grad


def _named(findings: Iterable[Finding]) -> frozenset[str]:
    alarms = [f for f in findings if f.severity is not Severity.NOTE]
    return frozenset(name for f in alarms for name in (f.fqn, *f.affected))


def _leaf(parameter: str) -> str:
    return parameter.rpartition(".")[2]


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _weight(layer: Layer, around: Surroundings, reach: Reach) -> tuple[Setting, bool]:
    """The setting of the weight, and whether the bias shall take off the mean of a sigmoid before it."""
    after, before = layer.nonlinearity, around.activation_before(layer)
    gain, centred = _gain(layer, after, before, deep=reach is Reach.DEEP)
    if sums := around.branch_ends.get(layer.fqn):
        gain /= math.sqrt(2 * sums)
    law = "orthogonal" if reach is Reach.DEEP and _can_be_orthogonal(layer) else None
    call = call_for(layer, after, gain, law)
    if call.scheme.startswith("xavier") and (centred or sums):  # the mean of both fans is for the gain alone
        call = Call("normal_", f"std={gain / math.sqrt(layer.fan_in):.4g}", gain / math.sqrt(layer.fan_in))
    setting = drawn(layer, call, gain)
    if sums:
        return replace(setting, note=f"over sqrt(2 * {sums}): so many sums with residual branches"), centred
    if setting.scheme in ("normal_", "uniform_") and layer.torch_fan_in and not torch_reads_fan_in(layer):
        return replace(setting, note="torch.nn.init reads another fan_in off the shape than the layer has"), centred
    return setting, centred


def _gain(layer: Layer, after: Activation | None, before: Activation | None, *, deep: bool) -> tuple[float, bool]:
    """The gain for a layer between two activations, and whether its bias shall take off the mean of a sigmoid.

    ``sigmoid(z) - 1/2`` is ``tanh(z/2)/2``: with the mean off, a gain of 4.72 keeps signal and gradient.
    """
    if before is not None and before.name == "sigmoid" and layer.bias is not None:
        return (before.backward_gain if after is not None else 1.0), True
    if after is None:
        return 1.0, False
    if after.name == "sigmoid":
        return 1.0, False
    if deep and after.saturating:
        return 1.0, False
    if after.saturating or math.isclose(after.gain, after.backward_gain, rel_tol=1e-3):
        return after.gain, False
    if before is None:
        return 1.0, False
    return (before.backward_gain if deep else before.gain), False


def _usual(layer: Layer, gain: float, around: Surroundings) -> bool:
    """Whether a gain is one that the plan would think of by itself: that of an activation beside the layer, or 1."""
    beside = (layer.nonlinearity, around.activation_before(layer))
    gains = (1.0, *(activation.gain for activation in beside if activation is not None))
    return any(math.isclose(gain, usual, rel_tol=SAME) for usual in gains)


def _fits(layer: Layer, around: Surroundings) -> bool:
    """Whether the weight is drawn with a gain between those of the activations beside it, and has no other fault."""
    if layer.fqn in around.branch_ends:
        return False
    beside = (layer.nonlinearity, around.activation_before(layer))
    gains = [g for a in beside for g in ((a.gain, a.backward_gain) if a is not None else (1.0,))]
    nearest = min(max(layer.weight.std * math.sqrt(layer.fan_in), min(gains)), max(gains))
    return not differs(layer.weight, Setting(layer.weight.fqn, "normal_", value=nearest / math.sqrt(layer.fan_in)))


def _can_be_orthogonal(layer: Layer) -> bool:
    return layer.repeats == 1 and len(layer.weight.shape) >= 2 and layer.fan_in == math.prod(layer.weight.shape[1:])


def _is_computed(trace: Trace, layer: Layer) -> bool:
    stored = next((p for p in trace.parameters if p.fqn == layer.weight.fqn), None)
    return stored is not None and stored.rms != layer.weight.rms and not math.isnan(stored.rms)


def _is_offset(parameter: Parameter) -> bool:
    """Whether a norm adds it, by its name."""
    return "bias" in _leaf(parameter.fqn) or _leaf(parameter.fqn) == "beta"


def _norm(parameter: Parameter, *, on_purpose: bool) -> Iterator[Setting]:
    """Gains one and biases zero; a gain of zeros that a note calls meant stays."""
    value = 0.0 if _is_offset(parameter) else 1.0
    right = parameter.constant and parameter.mean == value
    if not right and not (on_purpose and parameter.constant and parameter.mean == 0.0) and parameter.requires_grad:
        yield constant(parameter.fqn, value)


def _recurrent(layer: Layer, trace: Trace) -> Iterator[Setting]:
    """What a recurrence starts with: normal for the input, orthogonal for the state, a forget gate that is open.

    Saxe et al. 2014 (arXiv:1312.6120) for the state; Jozefowicz et al. 2015, section 2.2, for the forget bias.
    """
    leaf = _leaf(layer.weight.fqn)
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
        if not _is_zero(bias):
            yield constant(bias.fqn, 0.0)
        yield replace(constant(bias.fqn, 1.0), rows=(size, 2 * size))
    elif not _is_zero(bias):
        yield constant(bias.fqn, 0.0)


def _outweighs(bias: Parameter, layer: Layer) -> bool:
    """Whether the bias is larger than what the layer makes of inputs of unit size."""
    return not bias.rms <= layer.weight.rms * math.sqrt(layer.fan_in)


def _is_zero(parameter: Parameter) -> bool:
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

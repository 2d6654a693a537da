"""The whole-model plan: for every parameter that shall change, what it shall start with.

What a single weight starts with is for :mod:`initaudit.advice.weight_rule`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

from initaudit.advice.recommend import advise, is_embedding
from initaudit.advice.settings import Setting, constant, from_advice
from initaudit.advice.surroundings import Surroundings
from initaudit.advice.weight_rule import (
    bias_setting,
    differs,
    fits,
    is_centred,
    is_usual,
    is_zero,
    length_setting,
    recurrent_settings,
    weight_setting,
)
from initaudit.records import Finding, Layer, Parameter, Severity, Trace

RECURRENT = ("lstm", "gru", "rnn", "LSTM", "GRU", "RNN")


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
        wanted = self._settings(around, _named(self.findings), reach)
        planned = [s for s in wanted if math.isfinite(s.value)]  # no weight outweighs a function that gives zeros alone
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
        if setting.draws or setting.rows is not None or setting.is_computed:
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
            elif around.has_gain(layer) and not is_usual(layer, finding.advice.gain or 1.0, around):
                yield setting
                yield from length_setting(layer, around)

    def _alike(self, setting: Setting, finding: Finding) -> Iterator[str]:
        """The same parameter of what the finding affects (a gain of each norm, say), and what it affects itself."""
        leaf, weights = _leaf(setting.parameter), {layer.weight.fqn for layer in self.trace.layers}
        for parameter in self.trace.parameters if setting.rows is None and not setting.draws else ():
            owner, _, name = parameter.fqn.rpartition(".")
            alike = (owner in finding.affected and name == leaf) or parameter.fqn in finding.affected
            if alike and parameter.fqn not in weights:
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
        if gains and all(is_zero(p) for p in gains):
            return frozenset()
        notes = [f for f in self.findings if f.severity is Severity.NOTE and f.name == "symmetric-units"]
        return frozenset(name for note in notes for name in (note.fqn, *note.affected))

    @cached_property
    def _multiplied(self) -> frozenset[str]:
        return frozenset(layer.weight.fqn for layer in self.trace.layers if not is_embedding(layer))

    def _is_root(self, layer: Layer) -> bool:
        """Whether a finding is about this very layer."""
        alarms = (f for f in self.findings if f.severity is not Severity.NOTE and f.root_cause)
        return any(layer.fqn == f.fqn or (f.name == "symmetric-units" and layer.fqn in f.affected) for f in alarms)

    def _layer(self, layer: Layer, around: Surroundings, reach: Reach) -> Iterator[Setting]:
        """The weight, where it differs from the rule, and the bias."""
        if around.is_out_of_reach(layer):
            return
        if layer.kind.startswith(RECURRENT) and reach > Reach.OFFSETS:
            yield from recurrent_settings(layer, self.trace)
            return
        if is_embedding(layer) and reach > Reach.OFFSETS:
            if layer.weight.fqn in self._multiplied:
                return  # a head too, which is the stricter of the two
            advice = advise(layer)
            setting = from_advice(advice, frozenset(p.fqn for p in self.trace.parameters))
            if setting is not None and differs(layer.weight, setting):
                yield setting
            return
        if reach is Reach.OFFSETS:
            if layer.bias is not None and layer.bias.requires_grad and _outweighs(layer.bias, layer):
                yield constant(layer.bias.fqn, 0.0)
            return
        setting = weight_setting(layer, around, deep=reach is Reach.DEEP)
        if (reach is Reach.EVERY or differs(layer.weight, setting)) and (
            reach >= Reach.EVERY or is_centred(layer, around) or layer.fqn in self._blamed or not fits(layer, around)
        ):
            yield setting
            yield from length_setting(layer, around)
        yield from bias_setting(layer, around)


def _on_purpose(layer: Layer) -> bool:
    """All zeros, which only a finding of its own makes a fault; or frozen."""
    return is_zero(layer.weight) or not layer.weight.requires_grad


def _named(findings: Iterable[Finding]) -> frozenset[str]:
    alarms = [f for f in findings if f.severity is not Severity.NOTE]
    return frozenset(name for f in alarms for name in (f.fqn, *f.affected))


def _leaf(parameter: str) -> str:
    return parameter.rpartition(".")[2]


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _is_offset(parameter: Parameter) -> bool:
    """Whether a norm adds it, by its name."""
    return "bias" in _leaf(parameter.fqn) or _leaf(parameter.fqn) == "beta"


def _norm(parameter: Parameter, *, on_purpose: bool) -> Iterator[Setting]:
    """Gains one and biases zero; a gain of zeros that a note calls meant stays."""
    value = 0.0 if _is_offset(parameter) else 1.0
    right = parameter.constant and parameter.mean == value
    if not right and not (on_purpose and parameter.constant and parameter.mean == 0.0) and parameter.requires_grad:
        yield constant(parameter.fqn, value)


def _outweighs(bias: Parameter, layer: Layer) -> bool:
    """Whether the bias is larger than what the layer makes of inputs of unit size."""
    return not bias.rms <= layer.weight.rms * math.sqrt(layer.fan_in)

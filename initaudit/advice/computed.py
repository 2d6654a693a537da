"""Weights that are computed from parameters, and what is left to draw of them.

Weight normalization divides the direction's own length away (Salimans & Kingma 2016, arXiv:1602.07868), spectral
normalization the largest singular value (Miyato et al. 2018, arXiv:1802.05957): a draw of the parameter alone changes
nothing of either's scale.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property

from initaudit.advice.recommend import plain_call
from initaudit.records import Advice, Layer, Parameter, Trace

_PARAMETRIZED = ".parametrizations."
_SAME = 0.1  # in ln rms: what a part of a parameter may differ by from the whole
SPECTRAL = "its largest singular value is one whatever is drawn; so are all of them"


@dataclass
class Computed:
    """What a trace tells of the weights that are computed."""

    trace: Trace

    @cached_property
    def lengths(self) -> dict[str, Parameter]:
        """The lengths that weight normalization keeps apart, by the name of the direction."""
        found = {}
        for op in self.trace.ops:
            if op.name.endswith("weight_norm") and len(op.parameters) == 2:
                direction, length = (self._stored.get(name) for name in op.parameters)
                if direction is not None and length is not None and length.requires_grad:
                    found[direction.fqn] = length
        return found

    @cached_property
    def spectral(self) -> frozenset[str]:
        """The names of weights that are divided by their largest singular value, found by power iteration."""
        names: dict[str, set[str]] = {}
        for op in self.trace.ops:
            if not op.moving and len(op.parameters) == 1:
                names.setdefault(op.parameters[0], set()).add(op.name)
        return frozenset(name for name, found in names.items() if found >= {"mv", "normalize", "div"})

    @cached_property
    def _stored(self) -> dict[str, Parameter]:
        return {p.fqn: p for p in self.trace.parameters}

    def has_gain(self, layer: Layer) -> bool:
        """Whether what the weight is drawn with is what it has."""
        return not self.is_out_of_reach(layer) and layer.weight.fqn not in self.spectral

    def is_out_of_reach(self, layer: Layer) -> bool:
        """Whether no parameter is the weight, which is computed from some in a way that no plan is made for."""
        name = layer.weight.fqn
        stored = self._stored.get(name)
        if stored is None or stored.shape != layer.weight.shape:
            return True
        computed = stored.rms != layer.weight.rms and not math.isnan(stored.rms)
        return computed and name not in self.lengths and name not in self.spectral

    def is_part(self, layer: Layer) -> bool:
        """Whether the weight is some of a larger parameter, as it is stored, and as all of it is drawn."""
        stored = self._stored.get(layer.weight.fqn)
        if stored is None or math.prod(stored.shape) <= math.prod(layer.weight.shape):
            return False
        alike = stored.rms > 0 and layer.weight.rms > 0 and abs(math.log(stored.rms / layer.weight.rms)) < _SAME
        return alike or stored.rms == layer.weight.rms


def reaching(advice: Advice, layer: Layer, computed: Computed) -> Advice | None:
    """``advice`` as a line that changes the weight as it is used; ``None`` where no line is known that does."""
    name, at = layer.weight.fqn, layer.weight_access
    if advice.std is not None and not math.isfinite(advice.std):
        return None  # no weight brings back what the function behind the layer takes away
    if name in computed.spectral:
        why = f"Spectral normalization divides the weight: {SPECTRAL}."
        return Advice("orthogonal_", None, orthogonal_std(layer), f"nn.init.orthogonal_({at})", why)
    if length := computed.lengths.get(name):
        return replace(advice, code=_with_length(advice.code, layer, length))
    if not computed.is_out_of_reach(layer):
        return advice
    if computed.is_part(layer) and advice.std is not None and advice.scheme != "zeros_":
        call = plain_call(layer.weight, advice.std)  # torch.nn.init would read a fan_in off the shape of the whole
        return replace(advice, scheme=call.scheme, code=f"nn.init.{call.scheme}({at}, {call.arguments})")
    return None


def orthogonal_std(layer: Layer) -> float:
    """The std of ``orthogonal_``'s entries: Var[W] = 1 / max(rows, columns)."""
    return 1 / math.sqrt(max(layer.weight.shape[0], math.prod(layer.weight.shape[1:])))


def _with_length(code: str, layer: Layer, length: Parameter) -> str:
    """``code`` that draws a direction as one that sets the length with it, as it was drawn."""
    at = layer.weight_access
    before, found, chain = at.rpartition(_PARAMETRIZED)
    if found:
        weight = f"{before}.{chain.partition('.')[0]}"
        return f"{weight} = {code.replace(at, f'torch.empty_like({weight})', 1)}"
    (owner, _, leaf), (other, _, beside) = layer.weight.fqn.rpartition("."), length.fqn.rpartition(".")
    known = owner == other and at.endswith(f".{leaf}")
    of = f"{at.removesuffix(leaf)}{beside}" if known else f"m.get_parameter({json.dumps(length.fqn)})"
    return f"{code}; {of}.data.copy_(torch.norm_except_dim({at}.data, {norm_arguments(layer, length)}))"


def norm_arguments(layer: Layer, length: Parameter) -> str:
    """What ``torch.norm_except_dim`` takes behind the direction to give the lengths."""
    along = next((i for i, size in enumerate(length.shape) if size == layer.weight.shape[i] > 1), 0)
    return f"2, {along if length.shape else -1}"

"""The faults to inject: where each can go in a healthy audited model, and what it does there.

A site is the tuple of names of the parameters that the fault changes. Which layers there are, what follows them and
what their fans are is read from the audit of the healthy model, so that the same faults go into any model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from initaudit import Report
from initaudit.records import Layer, Parameter, Role
from initaudit.rules.flow import weight_deviation
from initaudit.rules.paths import is_last

Site = tuple[str, ...]
_BLOCK = re.compile(r"((?:[^.]+\.)*?\d+)\.")  # up to the first number in a dotted path
_QUERY_OR_KEY = re.compile(r"(^|[._])(q|k|query|key)(_?(proj|lin|linear|layer))?\.weight$")
_NORM_FREE_DEPTH = 5  # layers before a ReLU that make a stack deep enough for the wrong gain to show


@dataclass
class Subject:
    """A healthy model, its inputs, and what the audit sees in it."""

    name: str
    model: nn.Module
    inputs: Any
    report: Report
    saved: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.saved = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    @cached_property
    def layers(self) -> list[Layer]:
        """Layers that multiply a signal by a weight of their own that gets a gradient; embeddings are none."""
        roles = {op.id: op.role for op in self.report.trace.ops} if self.report.trace else {}
        return [
            layer
            for layer in self.report.layers
            if layer.weight.fqn in self.saved
            and len(layer.weight.shape) > 1
            and layer.weight.grad_rms
            and roles[layer.calls[0].op] is Role.LAYER
        ]

    @cached_property
    def last(self) -> set[str]:
        """The weights of the layers that nothing follows: heads."""
        trace = self.report.trace
        return {layer.weight.fqn for layer in self.layers if trace and is_last(trace, layer)}

    def owner(self, parameter: str) -> nn.Module:
        return self.model.get_submodule(parameter.rpartition(".")[0])

    @torch.no_grad()
    def heal(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(self.saved[name])


@dataclass(frozen=True)
class Fault:
    """One kind: ``sites`` says where it can go, ``apply`` puts it there; gradient descent may mend it by itself."""

    name: str
    sites: Callable[[Subject], Iterable[Site]]
    apply: Callable[[Subject, Site], None]
    recovers: bool = False


# -- where ---------------------------------------------------------------------------------------------------------


def weights(wanted: Callable[[Layer], bool] = lambda layer: True) -> Callable[[Subject], Iterable[Site]]:
    return lambda subject: [(layer.weight.fqn,) for layer in subject.layers if wanted(layer)]


def inner(wanted: Callable[[Layer], bool] = lambda layer: True) -> Callable[[Subject], Iterable[Site]]:
    """All but the last layers: a head that starts small or at zero is accepted practice."""
    return lambda subject: [site for site in weights(wanted)(subject) if site[0] not in subject.last]


def biases(wanted: Callable[[Layer], bool] = lambda layer: True) -> Callable[[Subject], Iterable[Site]]:
    """Those of all but the last layers, which may hold the frequencies of the classes."""
    return lambda subject: [
        (layer.bias.fqn,)
        for layer in subject.layers
        if layer.bias and wanted(layer) and layer.weight.fqn not in subject.last
    ]


def before(*activations: str) -> Callable[[Layer], bool]:
    return lambda layer: layer.nonlinearity is not None and layer.nonlinearity.name in activations


def relu_stack(subject: Subject) -> Iterable[Site]:
    """All layers before a ReLU, in a model that has many of them and no normalization."""
    assert subject.report.trace is not None
    site = tuple(layer.weight.fqn for layer in subject.layers if before("relu")(layer))
    if len(site) >= _NORM_FREE_DEPTH and all(op.role is not Role.NORM for op in subject.report.trace.ops):
        yield site


def norm_gammas(subject: Subject) -> Iterable[Site]:
    assert subject.report.trace is not None
    used: list[Parameter] = [p for p in subject.report.trace.parameters if p.grad_rms and p.fqn.endswith("weight")]
    return [(p.fqn,) for p in used if len(p.shape) == 1 and "Norm" in type(subject.owner(p.fqn)).__name__]


def queries_and_keys(subject: Subject) -> Iterable[Site]:
    return [(layer.weight.fqn,) for layer in subject.layers if _QUERY_OR_KEY.search(layer.weight.fqn)]


def blocks(subject: Subject) -> list[Site]:
    """The layers below each numbered part of the model, where there are several parts."""
    found: dict[str, list[str]] = {}
    for layer in subject.layers:
        if match := _BLOCK.match(layer.weight.fqn):
            found.setdefault(match[1], []).append(layer.weight.fqn)
    return [tuple(names) for names in found.values()] if len(found) > 1 else []


def blocks_unlike_default(subject: Subject) -> Iterable[Site]:
    """Blocks of which torch's default init, of variance 1/(3 fan_in), would change a weight's scale by half or more."""

    def differs(layer: Layer) -> bool:
        ratio = layer.weight.std * (3 * layer.fan_in) ** 0.5
        return hasattr(subject.owner(layer.weight.fqn), "reset_parameters") and not 1 / 1.5 < ratio < 1.5

    different = {layer.weight.fqn for layer in subject.layers if differs(layer)}
    return [site for site in blocks(subject) if different & set(site)]


# -- what ----------------------------------------------------------------------------------------------------------


def each(change: Callable[[Tensor], object]) -> Callable[[Subject, Site], None]:
    @torch.no_grad()
    def apply(subject: Subject, site: Site) -> None:
        for name in site:
            change(subject.parameters[name])

    return apply


def constant_rows(weight: Tensor) -> None:
    weight.copy_(weight[:1].expand_as(weight).clone())


def one_nan(weight: Tensor) -> None:
    weight.view(-1)[int(torch.randint(weight.numel(), ()))] = float("nan")


def never_written(weight: Tensor) -> None:
    """Any bits read as float32, but for those that are not finite: what old memory may hold."""
    bits = torch.randint(-(2**31), 2**31 - 1, weight.shape, dtype=torch.int64).to(torch.int32)
    weight.copy_(bits.view(torch.float32).nan_to_num(0.0, 0.0, 0.0))


@torch.no_grad()
def fan_out(subject: Subject, site: Site) -> None:
    layer = next(layer for layer in subject.layers if layer.weight.fqn == site[0])
    subject.parameters[site[0]].mul_((layer.fan_in / layer.fan_out) ** 0.5)


@torch.no_grad()
def saturate(subject: Subject, site: Site) -> None:
    layer = next(layer for layer in subject.layers if layer.weight.fqn == site[0])
    before_it = layer.calls[0].pre_activation
    subject.parameters[site[0]].mul_(10 / before_it.rms if before_it and before_it.rms else 10)


@torch.no_grad()
def torch_default(subject: Subject, site: Site) -> None:
    for module in {id(m): m for m in map(subject.owner, site) if hasattr(m, "reset_parameters")}.values():
        module.reset_parameters()


def lopsided(layer: Layer) -> bool:
    """Whether the fans differ by a factor of three in a layer that keeps to the one of them."""
    return not 1 / 3 < layer.fan_in / layer.fan_out < 3 and weight_deviation(layer, (layer.nonlinearity,)) == 0


def unlike(low: float, high: float) -> Callable[[Layer], bool]:
    return lambda layer: not low < layer.weight.std < high


FAULTS: tuple[Fault, ...] = (
    Fault("weight x30", weights(), each(lambda w: w.mul_(30))),
    Fault("weight x1/30", inner(), each(lambda w: w.div_(30))),
    Fault("weight zero", inner(), each(lambda w: w.zero_()), recovers=True),
    Fault("constant rows", inner(), each(constant_rows), recovers=True),
    Fault("std 0.01", inner(unlike(0.005, 0.02)), each(lambda w: w.normal_(0, 0.01))),
    Fault("std 1", weights(lambda layer: layer.weight.std < 0.5), each(lambda w: w.normal_(0, 1))),
    Fault("Xavier for He, all", relu_stack, each(nn.init.xavier_normal_)),
    Fault("fan-out for fan-in", weights(lopsided), fan_out),
    Fault("bias -5 before ReLU", biases(before("relu")), each(lambda b: b.fill_(-5))),
    Fault("bias N(0, 2)", biases(), each(lambda b: b.normal_(0, 2))),
    Fault("saturated tanh", weights(before("tanh", "sigmoid")), saturate),
    Fault("query or key x30", queries_and_keys, each(lambda w: w.mul_(30))),
    Fault("norm gamma 0", norm_gammas, each(lambda g: g.zero_()), recovers=True),
    Fault("norm gamma x10", norm_gammas, each(lambda g: g.mul_(10))),
    Fault("one NaN", weights(), each(one_nan)),
    Fault("never written", weights(), each(never_written)),
    Fault("block at torch default", blocks_unlike_default, torch_default),
    Fault("block scaled twice", blocks, each(lambda w: w.mul_(2))),
)

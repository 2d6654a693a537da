"""The documented tests of other tools, written anew in torch and applied before the first step.

They see more than the tools do, whose hooks miss a function such as ``F.relu``: every activation is shown to them. The
loss is the cross-entropy of the first batch. A test gives a continuous ``score`` that is above its ``limit`` when the
tool would report; ``fires`` says whether it does.

SageMaker Debugger: ``debugger-built-in-rules`` of the SageMaker developer guide, default parameters.
TheDeepChecker: ``deep_checker/config/settings.yaml`` and ``checkers.py``; its checks of activations and gradients run
from step 10, here on the values of step 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from _training import Data
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Seen:
    """The tensors of one forward and backward pass: ``activations`` as pairs of input and output, in order."""

    activation: str
    activations: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    layers: list[nn.Module] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    loss: float = math.nan
    classes: int = 0

    @property
    def inputs(self) -> list[Tensor]:
        return [z for z, _ in self.activations]

    @property
    def outputs(self) -> list[Tensor]:
        return [a for _, a in self.activations]

    @property
    def weights(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer."""
        pairs = []
        for layer in self.layers:
            own = {name: p.detach() for name, p in layer.named_parameters(recurse=False)}
            pairs += [(own[n], own[n.replace("weight", "bias")]) for n in own if n.startswith("weight")]
        return pairs


def look(model: nn.Module, activation: str, data: Data, batch: Tensor) -> Seen:
    """One pass of ``model`` over ``batch``, the first samples of ``data``."""
    seen = Seen(activation, classes=data.classes)
    function = getattr(model, "activation", None)
    recurrent = [m for m in model.modules() if isinstance(m, nn.RNNBase)]
    kinds = (nn.Linear, nn.Conv2d, nn.RNNBase)
    seen.layers = [m for m in model.modules() if isinstance(m, kinds)]

    def record(z: Tensor) -> Tensor:
        a = function(z)
        seen.activations.append((z.detach(), a.detach()))
        return a

    def record_states(module: nn.Module, inputs: object, output: tuple[Tensor, object]) -> None:
        states = output[0].detach()
        seen.activations.append((states.clamp(-1, 1).atanh(), states))

    handles = [m.register_forward_hook(record_states) for m in recurrent]
    if function is not None:
        model.activation = record
    try:
        loss = F.cross_entropy(model(batch), data.labels[: len(batch)])
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    finally:
        model.activation = function
        for handle in handles:
            handle.remove()
    seen.gradients = [g for g in gradients if g is not None]
    seen.loss = float(loss.detach())
    return seen


def units(values: Tensor) -> Tensor:
    """``[observations, units]``: the unit dimension is the second of an image, else the last."""
    return values.transpose(1, -1).flatten(0, -2) if values.ndim == 4 else values.flatten(0, -2)


def log(value: float) -> float:
    return math.log(value) if value > 0 and math.isfinite(value) else (-math.inf if value <= 0 else math.inf)


# --- SageMaker Debugger


def vanishing_gradient(seen: Seen) -> float:
    """``-ln`` of the smallest mean absolute gradient."""
    return -min(log(g.abs().mean().item()) for g in seen.gradients)


def poor_initialization(seen: Seen) -> float:
    """``ln`` of the largest over the smallest variance of the inputs of activations."""
    logs = [log(z.var().item()) for z in seen.inputs]
    return max(logs) - min(logs) if all(map(math.isfinite, logs)) else math.inf


def saturated_activation(seen: Seen) -> float:
    """The largest share of a layer's units that are outside the active range on 99% of the samples."""
    bounds = {"tanh": (-9.4999, 9.4999), "sigmoid": (-23.0, 16.99999)}.get(seen.activation)
    if bounds is None:
        return 0.0
    active = (((z > bounds[0]) & (z < bounds[1])) for z in map(units, seen.inputs))
    return max(((a.float().mean(0) < 0.01).float().mean().item() for a in active), default=0.0)


def dead_relu(seen: Seen) -> float:
    """The largest share of a layer's units that are positive on less than 1% of the samples."""
    if seen.activation != "relu":
        return 0.0
    return max(((units(a) > 0).float().mean(0) < 0.01).float().mean().item() for a in seen.outputs)


def exploding_tensor(seen: Seen) -> float:
    tensors = [*seen.gradients, *seen.inputs, *seen.outputs]
    return float(not all(t.isfinite().all() for t in tensors) or not math.isfinite(seen.loss))


# --- TheDeepChecker


def initial_weights(seen: Seen) -> float:
    """``ln`` of the largest ratio of a weight's variance to that of the law it asks for; infinite for a constant."""
    return max(log(_ratio_to_law(w, seen.activation)) for w, _ in seen.weights)


def _ratio_to_law(weight: Tensor, activation: str) -> float:
    fan_in = weight[0].numel()
    fan_out = weight.numel() / weight.shape[1]
    laws = {"lecun": 1 / fan_in, "he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out)}
    asked = {"relu": "he", "tanh": "glorot", "sigmoid": "lecun"}.get(activation)
    variance = weight.var().item()
    if not variance > 1e-12:
        return math.inf
    return min(max(variance / law, law / variance) for name, law in laws.items() if asked in (None, name))


def initial_biases(seen: Seen) -> float:
    return max(float(bias.abs().max()) for _, bias in seen.weights)


def initial_loss(seen: Seen) -> float:
    """``|L - ln C| / ln C``."""
    return abs(seen.loss - math.log(seen.classes)) / math.log(seen.classes)


def dead_activations(seen: Seen) -> float:
    """The largest share of a layer's units whose 95th percentile of absolute values is below 1e-5."""
    return max((units(a).abs().quantile(0.95, 0) < 1e-5).float().mean().item() for a in seen.outputs)


def saturation(seen: Seen) -> float:
    """The largest share of a layer's units whose saturation measure over 50 bins exceeds 0.85."""
    if seen.activation not in ("tanh", "sigmoid"):
        return 0.0
    return max((_binned_saturation(units(a), seen.activation) > 0.85).float().mean().item() for a in seen.outputs)


def _binned_saturation(a: Tensor, activation: str) -> Tensor:
    """Mean over bins, weighted by their counts, of the absolute mean output in ``[-1, 1]`` (Rakitianskaia 2015)."""
    centred = a if activation == "tanh" else 2 * a - 1
    bins = ((centred + 1) / 2 * 50).long().clamp(0, 49)
    sums = torch.zeros(50, a.shape[1]).scatter_add_(0, bins, centred)
    return sums.abs().sum(0) / len(a)


def distribution(seen: Seen) -> float:
    """``ln`` of the factor by which the variance of a layer's activations is outside ``[0.25, 4]``."""
    return _outside([a.std().item() for a in seen.outputs], factor=2)


def vanishing_mean(seen: Seen) -> float:
    return vanishing_gradient(seen)


def exploding_mean(seen: Seen) -> float:
    return max(log(g.abs().mean().item()) for g in seen.gradients)


# --- the rule of thumb


def activations_std(seen: Seen) -> float:
    """``ln`` of the factor by which the std of a layer's activations is outside ``[0.5, 2]``."""
    return _outside([a.std().item() for a in seen.outputs], factor=1)


def pre_activations_std(seen: Seen) -> float:
    """The same, of what goes into the activations."""
    return _outside([z.std().item() for z in seen.inputs], factor=1)


def _outside(stds: list[float], factor: int) -> float:
    """The largest ``|ln std| - ln 2`` of ``stds``, times ``factor``."""
    return max(abs(log(std)) - math.log(2) if not math.isnan(std) else math.inf for std in stds) * factor


@dataclass(frozen=True)
class Test:
    """One test of a tool; ``graded`` when its score is a natural continuous number."""

    tool: str
    name: str
    score: Callable[[Seen], float]
    limit: float
    graded: bool = True


SAGEMAKER, DEEPCHECKER, THUMB = "SageMaker", "TheDeepChecker", "rule of thumb"
F_LIMIT = math.log(2.70554)
TESTS = (
    Test(SAGEMAKER, "VanishingGradient: mean |g| < 1e-7", vanishing_gradient, -math.log(1e-7)),
    Test(SAGEMAKER, "PoorWeightInitialization: variance ratio > 10", poor_initialization, math.log(10)),
    Test(SAGEMAKER, "SaturatedActivation: half of a layer", saturated_activation, 0.5),
    Test(SAGEMAKER, "DeadRelu: half of a layer", dead_relu, 0.5),
    Test(SAGEMAKER, "ExplodingTensor: NaN or Inf", exploding_tensor, 0.5, graded=False),
    Test(DEEPCHECKER, "initial weights: F > 2.7", initial_weights, F_LIMIT),
    Test(DEEPCHECKER, "initial biases: not zero", initial_biases, 0.0),
    Test(DEEPCHECKER, "initial loss: off by ln C", initial_loss, 1.0),
    Test(DEEPCHECKER, "dead activations: half of a layer", dead_activations, 0.5),
    Test(DEEPCHECKER, "saturation: half of a layer", saturation, 0.5),
    Test(DEEPCHECKER, "activations' std outside [0.5, 2], F > 2.7", distribution, F_LIMIT),
    Test(DEEPCHECKER, "vanishing: mean |g| < 1e-6", vanishing_mean, -math.log(1e-6)),
    Test(DEEPCHECKER, "exploding: mean |g| > 1e6", exploding_mean, math.log(1e6)),
    Test(THUMB, "activations' std outside [0.5, 2]", activations_std, 0.0),
    Test(THUMB, "pre-activations' std outside [0.5, 2]", pre_activations_std, 0.0),
)


def scores(seen: Seen) -> dict[str, float]:
    """The score of each test by its name; a NaN, where nothing can be measured any more, counts as infinite."""
    found = ((test.name, test.score(seen)) for test in TESTS)
    return {name: math.inf if math.isnan(score) else score for name, score in found}


def fired(found: dict[str, float]) -> Iterator[Test]:
    """The tests that report."""
    return (test for test in TESTS if found[test.name] > test.limit)

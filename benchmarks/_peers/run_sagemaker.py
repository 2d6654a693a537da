"""SageMaker Debugger's rules on what its hook saves: inputs and outputs of activation modules, gradients of parameters.

The rules run inside Amazon's service only; here are their documented tests, at step 0. What is no module, such as
``F.relu``, the hook does not see.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from serving import Complaint, owner, serve
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parents[1]))

from _thresholds import SAGEMAKER, TESTS, Seen, Test

ALWAYS = ("VanishingGradient", "ExplodingTensor")  # they look at gradients, the others at activations only
KINDS = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    saved: list[tuple[str, str, Tensor, Tensor]] = []

    def hook(name: str, kind: str):
        def save(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            saved.append((name, kind, given[0].detach(), output.detach()))

        return save

    for name, module in model.named_modules():
        if type(module) in KINDS:
            module.register_forward_hook(hook(name, KINDS[type(module)]))
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    gradients = [(owner(n), p.grad) for n, p in model.named_parameters() if p.grad is not None]
    kind = saved[0][1] if saved else ""
    for test in TESTS:
        if test.tool == SAGEMAKER:
            pairs = [(z, a) for _, _, z, a in saved]
            seen = Seen(kind, activations=pairs, gradients=[g for _, g in gradients], loss=float(loss.detach()))
            if (pairs or test.name.startswith(ALWAYS)) and fires(test, seen):
                yield Complaint(test.name, first_layer(test, saved, gradients), test.name)


def fires(test: Test, seen: Seen) -> bool:
    score = test.score(seen)
    return math.isnan(score) or score > test.limit


def first_layer(test: Test, saved: list[tuple[str, str, Tensor, Tensor]], gradients: list[tuple[str, Tensor]]) -> str:
    """The first tensor for which the test fires alone; none where it compares layers."""
    singles = [(name, Seen(kind, activations=[(z, a)], gradients=[a * 0 + 1], loss=0.0)) for name, kind, z, a in saved]
    if test.name.startswith(ALWAYS):
        singles = [(name, Seen("", gradients=[g], loss=0.0)) for name, g in gradients]
    return next((name for name, seen in singles if fires(test, seen)), "")


serve(look)

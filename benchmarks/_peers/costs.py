"""What one peer costs beside a plain forward and backward pass, on models of some size."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ENOUGH = 20.0  # CPU seconds of looking after which no further round begins
ROUNDS = 3

Made = tuple[nn.Module, Tensor, Tensor]


class Logits(nn.Module):
    """A transformers model as one that takes a tensor and returns ``(samples, classes)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits.flatten(0, -2)


def mlp(depth: int = 50, width: int = 512, batch: int = 256) -> Made:
    """He + ReLU, 50 layers of width 512; a batch of 256."""
    linears = [nn.Linear(width, width) for _ in range(depth)]
    for linear in linears:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    model = nn.Sequential(*(m for linear in linears for m in (linear, nn.ReLU())))
    return model, torch.randn(batch, width), torch.randint(width, (batch,))


def resnet50() -> Made:
    """8 images of 224 x 224."""
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    return Logits(model), torch.randn(8, 3, 224, 224), torch.randint(1000, (8,))


def gpt2() -> Made:
    """GPT-2 small; 2 sequences of 256 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(use_cache=False)
    ids, labels = (torch.randint(config.vocab_size, (2, 256)) for _ in range(2))
    return Logits(GPT2LMHeadModel(config)), ids, labels.flatten()


MODELS: dict[str, Callable[[], Made]] = {
    "mlp": mlp,
    "resnet50": resnet50,
    "gpt2": gpt2,
    "tiny": lambda: mlp(4, 16, 8),
}


def plain_pass(model: nn.Module, x: Tensor, y: Tensor) -> None:
    F.cross_entropy(model(x), y).backward()


def spent(action: Callable[[nn.Module, Tensor, Tensor], Any], made: Made) -> float:
    """CPU seconds of ``action`` on a copy of the model."""
    model = copy.deepcopy(made[0]).train()
    started = time.process_time()
    action(model, *made[1:])
    return time.process_time() - started


def cost(look: Callable[[nn.Module, Tensor, Tensor], Iterable[object]], name: str, output: str, limit: str) -> None:
    """Write the ratio of looking at model ``name`` to a plain pass, or the error, to ``output``.

    The process ends after ``limit`` CPU seconds where the system can be told so.
    """
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), resource.getrlimit(resource.RLIMIT_CPU)[1]))
    torch.manual_seed(0)
    made = MODELS[name]()
    spent(plain_pass, made)
    plain, looked = [], []
    found: dict[str, object] = {}
    try:
        while len(looked) < ROUNDS and sum(looked) < ENOUGH:
            plain.append(spent(plain_pass, made))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                looked.append(spent(lambda model, x, y: list(look(model, x, y)), made))
        found = {"plain": median(plain), "ratio": median(looked) / max(median(plain), 1e-3)}  # a clock may tick slowly
    except Exception as failure:
        found = {"error": f"{type(failure).__name__}: {failure}".splitlines()[0]}
    with open(output, "w", encoding="utf-8") as file:
        json.dump(found, file)

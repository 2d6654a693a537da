"""Data and training for the trainability benchmark: one network, every learning rate of two optimizers at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

SGD_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
ADAM_RATES = (3e-5, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
MOMENTUM = 0.9  # SGD's
BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's
STEPS, BATCH, EVERY = 600, 64, 30  # training steps, samples per step, steps between evaluations
DECIDED = 300  # step after which an optimizer goes on only where its score is neither low nor high
LOW, HIGH = 0.1, 0.9
HALVE = 90  # step after which each optimizer goes on with the half of its rates that has the lower loss
EVALUATED = 512  # training samples that accuracy and loss are measured on
LAST = 3  # evaluations whose mean is a final loss
ENOUGH = 0.95  # score at which an optimizer has shown that it trains the network
RATES = {"sgd": SGD_RATES, "adam": ADAM_RATES}


@dataclass(frozen=True)
class Data:
    """Standardized features ``[samples, features]``, integer ``labels`` and the accuracy of the commonest class."""

    features: Tensor
    labels: Tensor
    chance: float

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def batch(self) -> Tensor:
        """What an audit is given: the first batch."""
        return self.features[:BATCH]


@cache
def load(name: str) -> Data:
    """``"digits"`` or ``"breast_cancer"`` of scikit-learn, shuffled once, each feature with mean 0 and std 1."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    features = torch.tensor(bunch.data, dtype=torch.float32)
    labels = torch.tensor(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    features, labels = features[order], labels[order]
    std = features.std(0)
    features = (features - features.mean(0)) / torch.where(std > 0, std, 1.0)
    return Data(features, labels, labels.bincount().max().item() / len(labels))


@dataclass
class Outcome:
    """The best of one optimizer's learning rates.

    ``score`` is training accuracy between chance (0) and all (1), ``rate`` the learning rate that gave it, ``loss``
    the lowest loss of any, ``steps`` those taken until the score was :data:`ENOUGH` or the time was up.
    """

    score: float = 0.0
    rate: float = math.nan
    loss: float = math.inf
    steps: int = 0

    @property
    def undecided(self) -> bool:
        return LOW < self.score < HIGH

    def update(self, scores: Tensor, losses: Tensor, rates: Tensor, steps: int) -> None:
        best = int(scores.argmax())
        if scores[best] > self.score:
            self.score, self.rate = round(float(scores[best]), 4), float(rates[best])
        self.loss = min(self.loss, round(float(losses.min()), 4))
        self.steps = steps


@dataclass
class Copies:
    """Copies of one network along a leading dimension, one per learning rate, all parameters in one matrix."""

    model: nn.Module
    count: int
    flat: Tensor = field(init=False)

    def __post_init__(self) -> None:
        parameters = dict(self.model.named_parameters())
        self.shapes = {name: p.shape for name, p in parameters.items()}
        one = torch.cat([p.detach().flatten() for p in parameters.values()])
        self.flat = one.expand(self.count, -1).clone().requires_grad_()
        # torch has no batching rule for the fused recurrent kernels, and convolutions are faster one by one.
        self.together = not any(isinstance(m, (nn.RNNBase, nn.Conv2d)) for m in self.model.modules())

    def parameters(self, flat: Tensor) -> Mapping[str, Tensor]:
        pieces = flat.split([math.prod(shape) for shape in self.shapes.values()], -1)
        return {n: p.unflatten(-1, s) for (n, s), p in zip(self.shapes.items(), pieces, strict=True)}

    def __call__(self, x: Tensor) -> Tensor:
        """Logits ``[copies, samples, classes]``."""

        def one(parameters: Mapping[str, Tensor]) -> Tensor:
            return functional_call(self.model, dict(parameters), (x,))

        if self.together:
            return vmap(one)(self.parameters(self.flat))
        return torch.stack([one(self.parameters(row)) for row in self.flat])


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each copy, ``[copies]``."""
    targets = labels.expand(len(logits), -1)
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


def batches(data: Data, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Seeded batches, each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(0)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(data.labels), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        yield data.features[chosen], data.labels[chosen]


class Optimizers:
    """Rows that SGD with momentum trains, then rows that Adam trains, with a learning rate each."""

    def __init__(self, rates: Tensor, sgd: Tensor, like: Tensor) -> None:
        self.rates, self.sgd = rates, sgd
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.taken = 0

    def keep(self, rows: Tensor) -> None:
        self.rates, self.sgd = self.rates[rows], self.sgd[rows]
        self.first, self.second = self.first[rows], self.second[rows]

    @torch.no_grad()
    def step(self, flat: Tensor, gradient: Tensor) -> None:
        self.taken += 1
        n = int(self.sgd.sum())
        self.first[:n].mul_(MOMENTUM).add_(gradient[:n])
        flat[:n] -= self.rates[:n, None] * self.first[:n]
        self.first[n:].lerp_(gradient[n:], 1 - BETAS[0])
        self.second[n:].lerp_(gradient[n:].square(), 1 - BETAS[1])
        mean, square = (m[n:] / (1 - b**self.taken) for m, b in zip((self.first, self.second), BETAS, strict=True))
        flat[n:] -= self.rates[n:, None] * mean / (square.sqrt() + EPSILON)


class Run:
    """Copies of a network on their way, one to each learning rate of the optimizers."""

    def __init__(self, model: nn.Module, data: Data, kinds: Sequence[str]) -> None:
        rates = torch.tensor([rate for kind in kinds for rate in RATES[kind]])
        sgd = torch.tensor([kind == "sgd" for kind in kinds for _ in RATES[kind]])
        self.data = data
        self.copies = Copies(model.train(), len(rates))
        self.optimizers = Optimizers(rates, sgd, self.copies.flat.detach())

    def pauses(self, steps: int) -> Iterator[int]:
        """Take the steps; gives the number taken every :data:`EVERY` steps and at the end."""
        for step, (x, y) in enumerate(batches(self.data, steps), 1):
            gradient = torch.autograd.grad(losses(self.copies(x), y).sum(), self.copies.flat)[0]
            self.optimizers.step(self.copies.flat, gradient)
            if step % EVERY == 0 or step == steps:
                yield step

    def keep(self, rows: Tensor) -> None:
        if not rows.all():
            self.copies.flat = self.copies.flat.detach()[rows].requires_grad_()
            self.optimizers.keep(rows)

    def of(self, kind: str) -> Tensor:
        """Which copies the optimizer trains."""
        return self.optimizers.sgd if kind == "sgd" else ~self.optimizers.sgd

    @torch.no_grad()
    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Score and loss of each copy on a fixed part of the data; 0 and infinite where it is no longer finite."""
        x, y = self.data.features[:EVALUATED], self.data.labels[:EVALUATED]
        logits = self.copies(x)
        finite = logits.isfinite().all(-1).all(-1)
        accuracy = (logits.argmax(-1) == y).float().mean(-1)
        scores = torch.where(finite, (accuracy - self.data.chance) / (1 - self.data.chance), 0.0)
        return scores, torch.where(finite, losses(logits, y), math.inf)


def train(
    model: nn.Module, data: Data, kinds: Sequence[str] = ("sgd", "adam"), *, steps: int = STEPS
) -> dict[str, Outcome]:
    """Train ``model`` with every learning rate of the optimizers at once; the :class:`Outcome` of each.

    A copy that is no longer finite is dropped, and so are the worse half of each optimizer's after :data:`HALVE` steps
    and all of them once one has done enough, or after :data:`DECIDED` steps unless its score is between low and high.
    """
    run = Run(model, data, kinds)
    outcomes = {kind: Outcome() for kind in kinds}
    for step in run.pauses(steps):
        rows = _worth_going_on(run, outcomes, step)
        if not rows.any():
            break
        run.keep(rows)
    for outcome in outcomes.values():
        outcome.steps = steps if outcome.undecided else outcome.steps  # no copy was left to go on with
    return outcomes


def _worth_going_on(run: Run, outcomes: dict[str, Outcome], step: int) -> Tensor:
    """Bring ``outcomes`` up to date; which copies to go on with."""
    scores, loss = run.evaluate()
    rows = loss.isfinite()
    for kind, outcome in outcomes.items():
        mine = run.of(kind)
        if not mine.any():
            continue
        outcome.update(scores[mine], loss[mine], run.optimizers.rates[mine], step)
        if outcome.score >= ENOUGH or (step == DECIDED and not outcome.undecided):
            rows &= ~mine
        elif step == HALVE:
            rows &= ~mine | (loss <= loss[mine].median())
    return rows


def final_losses(model: nn.Module, data: Data, *, steps: int = DECIDED) -> dict[str, float]:
    """The loss that each optimizer gets to in ``steps`` steps, none of which is spared, at its best rate.

    It is the mean of the last :data:`LAST` evaluations. After :data:`HALVE` steps the worse half of the rates is
    dropped.
    """
    run = Run(model, data, tuple(RATES))
    found: list[Tensor] = []
    for step in run.pauses(steps):
        _, loss = run.evaluate()
        found.append(loss)
        if step == HALVE:
            rows = torch.stack([run.of(kind) & (loss <= loss[run.of(kind)].median()) for kind in RATES]).any(0)
            run.keep(rows)
            found = [each[rows] for each in found]
    mean = torch.stack(found[-LAST:]).mean(0)
    return {kind: float(mean[run.of(kind)].min()) for kind in RATES}

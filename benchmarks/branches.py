"""Is a branch called dead just when what only it reads is never learned?

    python benchmarks/branches.py [--quick] [--steps 1500] [--seeds 1]

Two towers of width 64, each with an input of its own, are concatenated or added and read by a linear head. The label
takes one bit from each input. The second tower is He-initialized and three layers deep; depth and weights of the first
one vary. After training with SGD (0.05, momentum 0.9) the first bit is predicted right, or by chance; a tower counts as
learned from 90%. A tower is called dead where the audit says IA111.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from _common import environment, parser, show  # first: it sets the environment of torch

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initaudit import audit

WIDTH, BATCH, TESTED, LEARNED = 64, 128, 4_000, 0.9
Initializer = Callable[[Tensor], object]
SCALES: dict[str, Initializer | None] = {
    "torch default": None,
    "std 0.02": lambda w: nn.init.normal_(w, std=0.02),
    "std 0.05": lambda w: nn.init.normal_(w, std=0.05),
    "He": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
}
DEPTHS = {"torch default": (4, 6, 7, 8, 9, 10, 12), "std 0.02": (2, 3, 4, 5, 6), "std 0.05": (4, 5, 6, 8), "He": (12,)}


class Towers(nn.Module):
    """Two towers, joined by ``cat`` or ``add``, and a head of four classes."""

    def __init__(self, depth: int, initialize: Initializer | None, join: str) -> None:
        super().__init__()
        self.first, self.second, self.join = tower(depth, initialize), tower(3, SCALES["He"]), join
        self.head = nn.Linear(2 * WIDTH if join == "cat" else WIDTH, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.first(x), self.second(y)
        logits: Tensor = self.head(torch.cat([a, b], 1) if self.join == "cat" else a + b)
        return logits


def tower(depth: int, initialize: Initializer | None) -> nn.Sequential:
    linears = [nn.Linear(WIDTH, WIDTH) for _ in range(depth)]
    for linear in linears if initialize else ():
        initialize(linear.weight)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*(m for linear in linears for m in (linear, nn.ReLU())))


class Task:
    """Normal inputs, and of each the side of a fixed plane on which it lies."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._planes = torch.randn(2, WIDTH, generator=self._generator)

    def draw(self, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        x, y = torch.randn(2, samples, WIDTH, generator=self._generator)
        return x, y, 2 * (x @ self._planes[0] > 0).long() + (y @ self._planes[1] > 0).long()


def train(model: nn.Module, task: Task, steps: int) -> float:
    """How often the first bit is predicted right after ``steps`` steps."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        x, y, label = task.draw(BATCH)
        optimizer.zero_grad()
        F.cross_entropy(model(x, y), label).backward()
        optimizer.step()
    with torch.no_grad():
        x, y, label = task.draw(TESTED)
        return float((model(x, y).argmax(1) // 2 == label // 2).float().mean())


def measure(depth: int, scale: str, join: str, seeds: int, steps: int) -> tuple[int, float]:
    """In how many of the seeds the audit calls the tower dead, and the median share of first bits told right."""
    called, right = 0, []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model, task = Towers(depth, SCALES[scale], join), Task(seed)
        *inputs, _ = task.draw(BATCH)
        called += any(f.code == "IA111" and f.severity.value == "error" for f in audit(model, tuple(inputs)).findings)
        right.append(train(model, task, steps))
    return called, median(right)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=1_500)
    options.add_argument("--seeds", type=int, default=1)
    given = options.parse_args(arguments)
    seeds, steps = (1, 2) if given.quick else (given.seeds, given.steps)
    torch.set_num_threads(1)  # to wake a second takes longer than these matrices
    print(environment(seeds=seeds, steps=steps))
    rows, agreed = [], 0
    settings = [(scale, depth, join) for scale, depths in DEPTHS.items() for depth in depths for join in ("cat", "add")]
    for scale, depth, join in settings[:1] if given.quick else settings:
        called, right = measure(depth, scale, join, seeds, steps)
        agreed += (2 * called > seeds) == (right < LEARNED)
        rows.append((scale, depth, join, f"{called}/{seeds}", f"{right:.0%}"))
    show(("weights", "layers", "joined by", "called dead", "first bit right"), rows)
    print(f"branches: {agreed} of {len(rows)} towers are called dead just when they do not learn")


if __name__ == "__main__":
    main()

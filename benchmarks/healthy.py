"""How often does a correctly initialized network raise an alarm?

    python benchmarks/healthy.py [--quick] [--seeds 200] [--extended]

Plain stacks of linear layers and activations, each with the initialization that theory prescribes for it, are built
and audited once per seed; every seed draws new weights and a new batch of N(0, 1). An alarm is any finding above a
note. `--extended` adds torch's own gains, other depths and widths, orthogonal weights and small batches, with a tenth
of the seeds each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from _common import alarms, brief, environment, parser, show  # first: it sets the environment of torch

# isort: split
import torch
from torch import Tensor, nn
from torch.nn import init

from initaudit import Report, audit

CLASSES = 10
Initializer = Callable[[Tensor], object]


def he(weight: Tensor) -> None:
    init.kaiming_normal_(weight, nonlinearity="relu")


def lecun(weight: Tensor) -> None:
    init.kaiming_normal_(weight, nonlinearity="linear")


def torch_gain(nonlinearity: str) -> Initializer:
    """Xavier with the gain that ``nn.init.calculate_gain`` gives."""
    return lambda weight: init.xavier_uniform_(weight, init.calculate_gain(nonlinearity))


def orthogonal(gain: float) -> Initializer:
    return lambda weight: init.orthogonal_(weight, gain)


@dataclass(frozen=True)
class Case:
    """One healthy network: ``depth`` linear layers, all but the last followed by ``activation``."""

    name: str
    activation: type[nn.Module]
    initialize: Initializer
    depth: int = 20
    width: int = 256
    batch: int = 64

    def build(self) -> nn.Sequential:
        modules: list[nn.Module] = []
        for i in range(self.depth):
            last = i == self.depth - 1
            linear = nn.Linear(self.width, CLASSES if last else self.width)
            self.initialize(linear.weight)
            init.zeros_(linear.bias)
            modules += [linear] if last else [linear, self.activation()]
        return nn.Sequential(*modules)

    def audit(self, seed: int) -> Report:
        torch.manual_seed(seed)
        return audit(self.build(), torch.randn(self.batch, self.width), seed=seed)

    def __str__(self) -> str:
        return f"{self.name}, depth {self.depth}, width {self.width}, batch {self.batch}"


STANDARD = (
    Case("He + ReLU", nn.ReLU, he),
    Case("Xavier + tanh", nn.Tanh, init.xavier_uniform_),
    Case("LeCun + SELU", nn.SELU, lecun),
)
OTHER_SCHEMES = (
    Case("Xavier gain 5/3 + tanh", nn.Tanh, torch_gain("tanh")),
    Case("Xavier gain sqrt(2) + ReLU", nn.ReLU, torch_gain("relu")),
    Case("Xavier gain 3/4 + SELU", nn.SELU, torch_gain("selu")),
    Case("orthogonal sqrt(2) + ReLU", nn.ReLU, orthogonal(2**0.5)),
    Case("orthogonal + tanh", nn.Tanh, orthogonal(1.0)),
    Case("orthogonal + SELU", nn.SELU, orthogonal(1.0)),
)


def extended() -> list[Case]:
    """The standard cases under other schemes, and each at other widths, depths and batches."""
    changes = ({"width": 64}, {"width": 1024}, {"depth": 5}, {"depth": 50}, {"batch": 8})
    return [*OTHER_SCHEMES, *(replace(case, **change) for change in changes for case in STANDARD)]


def alarmed_seeds(case: Case, seeds: Sequence[int]) -> dict[int, Report]:
    """The reports of the seeds with a finding above a note."""
    reports = {seed: case.audit(seed) for seed in seeds}
    return {seed: report for seed, report in reports.items() if alarms(report)}


def run(cases: Sequence[Case], seeds: int) -> list[tuple[Case, int]]:
    """Audit each case under ``seeds`` seeds, print the table, return each case with its number of alarmed seeds."""
    rows, counts = [], []
    for case in cases:
        alarmed = alarmed_seeds(case, range(seeds))
        codes = Counter(code for report in alarmed.values() for code in {f.code for f in alarms(report)})
        rows.append((str(case), f"{len(alarmed)}/{seeds}", ", ".join(f"{c} x{n}" for c, n in codes.most_common())))
        counts.append((case, len(alarmed)))
        for seed, report in list(alarmed.items())[:3]:
            print(f"  {case}, seed {seed}: {alarms(report)[0].fqn}: {brief(alarms(report)[0])}", flush=True)
    show(("network", "seeds with an alarm", "findings"), rows)
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=200)
    options.add_argument("--extended", action="store_true", help="other schemes, sizes and batches as well")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    seeds = 2 if given.quick else given.seeds
    print(environment(seeds=f"0..{seeds - 1}"))
    counts = run(STANDARD, seeds)
    worst = max(count for _, count in counts)
    if given.extended:
        counts += run(extended(), max(1, seeds // 10))
    print(f"healthy: at most {worst} of {seeds} seeds alarmed; in all {sum(n for _, n in counts)} alarmed audits")


if __name__ == "__main__":
    main()

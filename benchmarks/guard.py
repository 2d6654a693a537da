"""Has an audit become slower? A look of some twenty seconds, which CI prints and which fails on no time.

    python benchmarks/guard.py [--quick] [--update]

Small versions of the models of `overhead.py`: CPU seconds of an audit over those of a plain forward and backward pass,
medians of pairs that take turns; the peak of memory of one over that of the other; CPU microseconds per operation of
the probe and of the rules; and CPU seconds of a command that needs no model over those of importing its libraries.
Each stands beside what it was when `benchmarks/data/guard.json` was last written, which `--update` does. Machines
differ, and ratios differ less than times do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from _common import OutOfTimeError, environment, medians, parser, quiet, show, time_limit

# isort: split
import torch
from growth import STAGES, Chain, seconds
from overhead import Made, mlp, plain_pass, tiny
from torch import Tensor, nn

from initaudit import audit

REFERENCE = Path(__file__).parent / "data" / "guard.json"
LIMIT = 60  # seconds, after which what is measured by then is all
MORE = 1.25  # times the reference, from which a figure is marked
COMMANDS = {"initaudit --help": ("-m", "initaudit", "--help"), "initaudit rule": ("-m", "initaudit", "rule", "IA101")}
LIBRARIES = ("-c", "import click, rich")


class Block(nn.Module):
    """Two convolutions with batch normalization beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        parts = [m for _ in range(2) for m in (nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))]
        self.body = nn.Sequential(*parts[:2], nn.ReLU(), *parts[2:])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def residual_network() -> Made:
    """Eight blocks of 32 channels; 8 images of 32 x 32."""
    return nn.Sequential(nn.Conv2d(3, 32, 3), *(Block(32) for _ in range(8))), torch.randn(8, 3, 32, 32)


def transformer() -> Made:
    """Six layers of width 192; 4 sequences of 64 tokens."""
    layer = nn.TransformerEncoderLayer(192, 6, 768, batch_first=True, norm_first=True, activation="gelu")
    layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(1000, 192), layers, nn.Linear(192, 1000)), torch.randint(1000, (4, 64))


MODELS: dict[str, Callable[[], Made]] = {
    "mlp": lambda: mlp(24, 384, 256),
    "residual network": residual_network,
    "transformer": transformer,
}


def make(name: str) -> Made:
    torch.manual_seed(0)
    return MODELS[name]() if name in MODELS else tiny()


def overhead(name: str, repeats: int) -> float:
    """CPU seconds of an audit over those of a plain pass."""
    model, inputs = make(name)
    actions = (lambda: plain_pass(model, inputs), lambda: audit(model, inputs))
    for action in actions:
        action()
    (_, plain), (_, audited) = medians(*actions, repeats=repeats)
    return audited / plain


def peak_memory(name: str, what: str) -> float:
    """MiB at the peak of a process that builds the model and runs it, ``plain`` or in an ``audit``."""
    command = [sys.executable, __file__, "--peak-of", name, what]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _print_peak(name: str, what: str) -> None:
    import resource

    model, inputs = make(name)
    plain_pass(model, inputs) if what == "plain" else audit(model, inputs)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def cpu_of(arguments: Sequence[str]) -> float:
    """CPU seconds of a python process."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def startup(repeats: int) -> dict[str, float]:
    """CPU seconds of commands over those of importing what they are made with."""
    taken: dict[str, list[float]] = {name: [] for name in ("libraries", *COMMANDS)}
    for _ in range(repeats):
        for name, arguments in {"libraries": LIBRARIES, **COMMANDS}.items():
            taken[name].append(cpu_of(arguments))
    return {name: median(taken[name]) / median(taken["libraries"]) for name in COMMANDS}


def per_operation(layers: int) -> dict[str, float]:
    """CPU microseconds per operation of a chain of tiny layers."""
    seconds(Chain(4))
    runs = [seconds(Chain(layers)) for _ in range(3)]
    at = {stage: STAGES.index(stage) for stage in ("probe", "rules")}
    return {stage: 1e6 * median(taken[i] for _, taken in runs) / runs[0][0] for stage, i in at.items()}


def figures(quick: bool) -> Iterator[tuple[str, float]]:
    """Name and value of each, the cheapest first."""
    for name in ("tiny",) if quick else MODELS:
        yield f"{name}: audit over plain pass, CPU", overhead(name, 1 if quick else 7)
    for stage, value in per_operation(10 if quick else 300).items():
        yield f"{stage}: CPU microseconds per operation", value
    if quick:
        return
    for name, value in startup(3).items():
        yield f"{name}: over import click, rich, CPU", value
    yield "mlp: peak of audit over plain pass, memory", peak_memory("mlp", "audit") / peak_memory("mlp", "plain")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--update", action="store_true", help="write what was measured to benchmarks/data/guard.json")
    options.add_argument("--peak-of", nargs=2, metavar=("MODEL", "WHAT"), help="print one process's peak, in MiB")
    given = options.parse_args(arguments)
    if given.peak_of:
        _print_peak(*given.peak_of)
        return
    print(environment(OMP_WAIT_POLICY="PASSIVE"))
    known: dict[str, float] = json.loads(REFERENCE.read_text(encoding="utf-8")) if REFERENCE.exists() else {}
    found: dict[str, float] = {}
    try:
        with quiet(), time_limit(LIMIT):
            found.update(figures(given.quick))
    except OutOfTimeError as error:
        print(f"not all was measured: {error}")
    rows = [
        (name, f"{value:.3g}", f"{known[name]:.3g}" if name in known else "unknown") for name, value in found.items()
    ]
    show(("figure", "is", "was"), rows)
    slower = [name for name, value in found.items() if value > MORE * known.get(name, value)]
    if given.update:
        REFERENCE.write_text(json.dumps({n: round(v, 3) for n, v in found.items()}, indent=2) + "\n", encoding="utf-8")
    told = "; ".join(f"{name} {found[name]:.3g}, was {known[name]:.3g}" for name in slower)
    print(f"guard: {told or f'nothing is above {MORE} times what it was'}")


if __name__ == "__main__":
    main()

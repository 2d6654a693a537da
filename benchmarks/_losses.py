"""Networks that train, and that fix changes all the same: is the loss they end with the worse for it?

Several draws of a network's initialization, each as it is and after the code that fix prints for the first of them, are
trained for a fixed number of steps with the learning rates of the benchmark. Compared is the geometric mean of their
losses, optimizer by optimizer at the best rate of each. What counts was decided before any loss was measured:

* *more than 5% worse*: the mean after fix is above 1.05 times the mean before. A loss below 0.01, where the right class
  has a probability of 0.99, counts as 0.01: below it a ratio tells nothing. One above 1000, or no number, counts as
  1000.
* *worse*: that, and by more than two standard errors of the difference, those of the draws. One draw scatters by much
  more than 5%, so a network that seems more than 5% worse on three draws with either optimizer is drawn nine times.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from _common import quiet, show  # first: it sets the environment of torch

# isort: split
from _methods import after, code_of_fix, digest
from _networks import Network
from _training import RATES, final_losses, load

LOSSES = Path(__file__).parent / "data" / "fix_losses.json"
TOLERANCE = 0.05
FLOOR, CEILING = 0.01, 1000.0
ERRORS = 2  # standard errors
DRAWS, MORE_DRAWS = 3, 9
SEEDS_APART = 10  # so that no draw is one of the benchmark's own second seeds
Drawn = dict[str, list[float]]  # by optimizer, by draw


@dataclass
class Losses:
    """Final losses of a network's draws, as it is and after fix; ``code`` is the digest of what fix printed."""

    code: str
    original: Drawn
    fix: Drawn


def read_losses() -> dict[str, Losses]:
    stored = json.loads(LOSSES.read_text(encoding="utf-8")) if LOSSES.exists() else {}
    return {name: Losses(**entry) for name, entry in stored.items()}


def write_losses(losses: dict[str, Losses]) -> None:
    """One line to a network, so that a new measurement shows as what it changes."""
    lines = (f"{json.dumps(name)}: {json.dumps(vars(entry))}" for name, entry in sorted(losses.items()))
    LOSSES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def measure_losses(networks: Sequence[Network], losses: dict[str, Losses]) -> None:
    """Measure what is missing of each network, and more of those that seem worse."""
    start = time.process_time()
    for count in (DRAWS, MORE_DRAWS):
        for number, network in enumerate(networks, 1):
            known = losses.get(str(network))
            if count == DRAWS or (known and any(c.more_than_tolerance for c in changes(known).values())):
                losses[str(network)] = _measured(network, known, count)
                write_losses(losses)
                print(f"{number}/{len(networks)} losses: {network} {time.process_time() - start:.0f} s", flush=True)


def _measured(network: Network, known: Losses | None, count: int) -> Losses:
    """The losses of ``count`` draws; those that are known stay, unless the code is another one."""
    with quiet():
        code = code_of_fix(network, load(network.data))
        known = known or Losses("", {}, {})
        original = _drawn(network, "", known.original, count)
        same = known.code == digest(network, code)
        return Losses(digest(network, code), original, _drawn(network, code, known.fix if same else {}, count))


def _drawn(network: Network, code: str, known: Drawn, count: int) -> Drawn:
    drawn = {kind: list(known.get(kind, ())) for kind in RATES}
    data = load(network.data)
    for i in range(min(map(len, drawn.values())), count):
        one = replace(network, seed=network.seed + SEEDS_APART * i)
        for kind, loss in final_losses(after(code, one, data), data).items():
            drawn[kind].append(round(loss, 5))
    return drawn


# --- judgement


@dataclass(frozen=True)
class Change:
    """Of the logarithm of a loss: how much higher it is after fix, and the standard error of that."""

    difference: float
    error: float

    @property
    def ratio(self) -> float:
        return math.exp(self.difference)

    @property
    def more_than_tolerance(self) -> bool:
        return self.difference > math.log1p(TOLERANCE)

    @property
    def worse(self) -> bool:
        return self.more_than_tolerance and self.difference > ERRORS * self.error


def change(before: Sequence[float], now: Sequence[float]) -> Change:
    one, other = ([math.log(min(max(loss, FLOOR), CEILING)) for loss in losses] for losses in (before, now))
    variance = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return Change(statistics.fmean(other) - statistics.fmean(one), math.sqrt(variance))


def changes(losses: Losses) -> dict[str, Change]:
    """By optimizer."""
    return {kind: change(losses.original[kind], losses.fix[kind]) for kind in RATES}


@dataclass(frozen=True)
class Comparison:
    """The changes of each network by optimizer, and those that got worse with either."""

    networks: dict[str, dict[str, Change]]

    def with_either(self, holds: Callable[[Change], bool]) -> list[str]:
        return [name for name, by_kind in self.networks.items() if any(map(holds, by_kind.values()))]

    @property
    def worse(self) -> list[str]:
        return self.with_either(lambda c: c.worse)


def compare(losses: dict[str, Losses]) -> Comparison:
    return Comparison({name: changes(entry) for name, entry in losses.items()})


def print_losses(found: Comparison, *, names: bool) -> None:
    """Print the distribution of the changes, and with ``names`` the networks that are more than 5% worse."""
    rows = []
    for kind, title in (("sgd", "SGD"), ("adam", "Adam")):
        by_size = sorted((by_kind[kind] for by_kind in found.networks.values()), key=lambda c: c.difference)
        better = sum(c.difference < -math.log1p(TOLERANCE) for c in by_size)
        above, worse = sum(c.more_than_tolerance for c in by_size), sum(c.worse for c in by_size)
        spread = [f"{by_size[round(q * (len(by_size) - 1))].ratio:.2f}" for q in (0, 0.1, 0.5, 0.9, 1) if by_size]
        rows.append((title, len(by_size), better, len(by_size) - better - above, above, worse, ", ".join(spread)))
    heads = ("optimizer", "networks", "over 5% better", "within 5%", "over 5% worse", "and two errors")
    show((*heads, "loss after / before: least, tenths 1, 5, 9, most"), rows)
    if names:
        for name in found.with_either(lambda c: c.more_than_tolerance):
            told = (f"{kind} x {c.ratio:.2f} ± {c.error:.2f}" for kind, c in found.networks[name].items())
            print(f"  {name}: {', '.join(told)}{', worse' if name in found.worse else ''}")

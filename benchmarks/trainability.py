"""Does the verdict before training say which networks train?

    python benchmarks/trainability.py [--quick] [--fresh] [--misjudged] [--train [--only-missing]]

Networks of many families, depths and initializations (`_networks.py`) were trained on scikit-learn's digits and breast
cancer data with SGD (momentum 0.9) and with Adam, each with a grid of learning rates; `data/trainability.json` holds
what came out, and `--train` measures it anew (40 minutes of one core). A network *trains* when each of the two, at its
best rate, gets at least half of the way from the accuracy of the commonest class to 1 in 300 steps, or in 600 where it
is between a tenth and nine tenths by then. Each network is then audited as it starts, with the first batch of the data,
and judged by the documented tests of other tools (`_thresholds.py`).

Half of the networks, chosen by a hash of their description, was set aside for the figures while limits were chosen.
`--fresh` takes other networks, of other depths and draws, that were made and trained after all limits stood.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from _common import alarms, brief, environment, parser, quiet, show  # first: it sets the environment of torch

# isort: split
import torch
from _networks import Network, fresh_networks, networks
from _thresholds import TESTS, look, scores
from _training import STEPS, Outcome, load, train

from initaudit import Report, audit

LABELS = Path(__file__).parent / "data" / "trainability.json"
TRAINS = 0.5  # of the way from chance to all right; at 0.3 and 0.7 the figures are within 0.03 of those at 0.5
Label = dict[str, Outcome]
READINGS: dict[str, Callable[[Label], float]] = {
    "SGD and Adam": lambda label: min(o.score for o in label.values()),
    "SGD": lambda label: label["sgd"].score,
    "Adam": lambda label: label["adam"].score,
    "SGD or Adam": lambda label: max(o.score for o in label.values()),
}
HEADLINE = "SGD and Adam"  # Adam's steps do not depend on the gradient's size, so it mends much that stops SGD


# --- labels


def read_labels() -> dict[str, Label]:
    """The measured outcomes of each network by name, ``"sgd"`` and ``"adam"``."""
    if not LABELS.exists():
        return {}
    stored = json.loads(LABELS.read_text(encoding="utf-8"))
    return {name: {k: Outcome(*v) for k, v in label.items()} for name, label in stored.items()}


def write_labels(labels: dict[str, Label]) -> None:
    """One line to a network, so that a new measurement shows as what it changes."""
    lines = (
        f"{json.dumps(name)}: {json.dumps({k: astuple(v) for k, v in label.items()})}"
        for name, label in sorted(labels.items())
    )
    LABELS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def measure(wanted: Sequence[Network], labels: dict[str, Label]) -> None:
    """Train the ``wanted`` networks and save each label as it comes."""
    torch.set_flush_denormal(True)  # vanished values are slow to compute with
    for i, network in enumerate(wanted, 1):
        data, started = load(network.data), time.process_time()
        with quiet():
            model, known = network.build(data.features.shape[1], data.classes), labels.get(str(network), {})
            labels[str(network)] = known | train(model, data, missing(known))
        write_labels(labels)
        found = ", ".join(f"{k} {v.score:.2f} ({v.steps} steps)" for k, v in labels[str(network)].items())
        print(f"  {i}/{len(wanted)} {network}: {found}, {time.process_time() - started:.1f} s", flush=True)
    torch.set_flush_denormal(False)


def missing(label: Label) -> list[str]:
    """The optimizers that have not been measured, or were stopped undecided."""
    known = {kind for kind, outcome in label.items() if not outcome.undecided or outcome.steps >= STEPS}
    return [kind for kind in ("sgd", "adam") if kind not in known]


def in_order(every: Iterable[Network]) -> list[Network]:
    """The networks in an order without order, so that a measurement that was stopped is a fair sample."""
    return sorted(every, key=lambda network: hashlib.sha256(str(network).encode()).digest())


# --- judgements


@dataclass(frozen=True)
class Judged:
    """One network: what came of its training, and what was said before it."""

    network: Network
    label: Label
    report: Report
    peers: dict[str, float]

    def fails(self, reading: str) -> bool:
        return READINGS[reading](self.label) < TRAINS


def judge(network: Network, label: Label) -> Judged:
    """Audit the network as it starts, and apply the tests of the others."""
    data = load(network.data)
    model = network.build(data.features.shape[1], data.classes)
    report = audit(model, data.batch)
    return Judged(network, label, report, scores(look(model, network.activation, data, data.batch)))


def balanced_accuracy(said: Sequence[bool], true: Sequence[bool]) -> float:
    """Mean of the shares of failures and of successes that were foretold."""
    shares = [
        sum(s is t for s, t in zip(said, true, strict=True) if t is kind) / max(1, list(true).count(kind))
        for kind in (True, False)
    ]
    return sum(shares) / 2


def auc(score: Sequence[float], true: Sequence[bool]) -> float:
    """The chance that a network that fails scores higher than one that trains, ties counting half."""
    bad = [s for s, t in zip(score, true, strict=True) if t]
    good = [s for s, t in zip(score, true, strict=True) if not t]
    wins = sum((b > g) + (b == g) / 2 for b in bad for g in good)
    return wins / max(1, len(bad) * len(good))


Groups = dict[str, list[Judged]]


def row(
    name: str,
    groups: Groups,
    said: Callable[[Judged], bool],
    score: Callable[[Judged], float] | None,
    reading: str = HEADLINE,
) -> list[str]:
    """Balanced accuracy and AUC of each group; failures missed and false alarms of the last."""
    cells = [name]
    for group in groups.values():
        true = [j.fails(reading) for j in group]
        claims = [said(j) for j in group]
        cells.append(f"{balanced_accuracy(claims, true):.3f}")
        cells.append(f"{auc([score(j) for j in group], true):.3f}" if score else "")
    missed = sum(t and not s for s, t in zip(claims, true, strict=True))
    false = sum(s and not t for s, t in zip(claims, true, strict=True))
    return [*cells, f"{missed}/{true.count(True)}", f"{false}/{true.count(False)}"]


def rejected(judged: Judged) -> bool:
    return judged.report.verdict == "fail"


def severity(judged: Judged) -> float:
    return judged.report.severity_score


def peers(groups: Groups) -> list[list[str]]:
    """A row for each tool, any of its tests, followed by one for each test."""
    rows = []
    for tool in dict.fromkeys(test.tool for test in TESTS):
        own = [test for test in TESTS if test.tool == tool]
        if len(own) > 2:
            rows.append(
                row(f"{tool}, any test", groups, lambda j, own=own: any(j.peers[t.name] > t.limit for t in own), None)
            )
        for test in own:
            score = (lambda j, t=test: j.peers[t.name]) if test.graded else None
            rows.append(row(f"{tool}, {test.name}", groups, lambda j, t=test: j.peers[t.name] > t.limit, score))
    return rows


def histogram(labels: Iterable[Label]) -> list[tuple[str, ...]]:
    """How many networks ended with a score in each tenth, by optimizer."""
    columns = [Counter(min(9, int(10 * label[k].score)) for label in labels) for k in ("sgd", "adam")]
    return [(f"{i / 10:.1f} to {(i + 1) / 10:.1f}", *(str(column[i]) for column in columns)) for i in range(10)]


def tell(judged: Judged) -> str:
    """A network in one line: what came of it, what was said."""
    outcomes = ", ".join(f"{k} {o.score:.2f} loss {o.loss:.2g}" for k, o in judged.label.items())
    first = next((f"{f.fqn}: {brief(f, 110)}" for f in alarms(judged.report)), "")
    return f"{judged.network}: {outcomes}; {judged.report.verdict}, severity {severity(judged):.1f}; {first}"


def misjudged(group: Sequence[Judged]) -> list[Judged]:
    return [j for j in group if rejected(j) is not j.fails(HEADLINE)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--fresh", action="store_true", help="networks made after the limits stood")
    options.add_argument("--misjudged", action="store_true", help="list the networks that were misjudged")
    options.add_argument("--train", action="store_true", help="measure the labels anew instead of reading them")
    options.add_argument("--only-missing", action="store_true", help="with --train: keep the labels that are there")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    print(environment())
    labels, every = read_labels(), in_order(fresh_networks() if given.fresh else networks())
    if given.quick:
        every = every[::40]
        data = load("digits")
        train(Network("mlp", "relu", 2, "he").build(64, data.classes), data, steps=2)
    if given.train:
        labels = {k: v for k, v in labels.items() if given.only_missing or k not in {str(n) for n in every}}
        measure([n for n in every if missing(labels.get(str(n), {}))], labels)
    judged = [judge(network, labels[str(network)]) for network in every if str(network) in labels]
    groups = {
        "other half": [j for j in judged if not j.network.held_out],
        "half set aside": [j for j in judged if j.network.held_out],
    }
    report({"fresh networks": judged} if given.fresh else groups, list_misjudged=given.misjudged)


def report(groups: Groups, *, list_misjudged: bool = False) -> None:
    """Print the tables, and the line that sums them up."""
    judged = [j for group in groups.values() for j in group]
    show(("score", "SGD", "Adam"), histogram([j.label for j in judged]))
    heads = ["", *(head for name in groups for head in (f"balanced accuracy, {name}", "AUC")), "missed", "false"]
    own = [row(f"verdict, severity; trains: {r}", groups, rejected, severity, r) for r in READINGS]
    show(heads, [*own, *peers(groups)])
    if list_misjudged:
        for name, group in groups.items():
            print(f"misjudged, {name}:", *map(tell, misjudged(group)), sep="\n  ", flush=True)
    failing = sum(j.fails(HEADLINE) for j in judged)
    best, last = row("", groups, rejected, severity), list(groups)[-1]
    print(
        f"trainability: {len(judged)} networks, {failing} do not train; {last} ({len(groups[last])}): "
        f"balanced accuracy {best[-4]}, AUC {best[-3]}"
    )


if __name__ == "__main__":
    main()

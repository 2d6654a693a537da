"""Do networks that fail to train for their initialization train after `initaudit fix`? Do others lose by it?

    python benchmarks/fix.py [--quick] [--fresh] [--list] [--train [others] [fix] [losses] [--only-missing]]

Of the networks of the trainability benchmark (`trainability.py`) every one that does not train is initialized by the
code that `fix` prints, and trained again with the same data, seeds and learning rates; beside it the methods of
`_methods.py`: torch's default, He's initialization with `calculate_gain`, LSUV (Mishkin & Matas 2016) as its paper has
it and as the package `lsuv` does it, and AutoInit (Bingham & Miikkulainen 2023) from its paper's formulas. Those that
do train and that `fix` changes are trained with and without its code, and their losses compared (`_losses.py`).
`--fresh` takes the networks of other depths and draws that were made after all limits stood.

`data/fix.json` and `data/fix_losses.json` hold what came out. `--train` measures it anew (an hour of one core), or
the parts that are named, in an order without order, so that a run that is stopped is a fair sample; with
`--only-missing` a network is trained after `fix` again where its code is no longer the one that was measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

from _common import environment, parser, quiet, show  # first: it sets the environment of torch

# isort: split
import torch
from _losses import Losses, compare, measure_losses, print_losses, read_losses
from _methods import OTHERS, Method, after, available, base, code_of_fix, digest
from _networks import Network, fresh_networks, networks
from _training import Outcome, load, train
from trainability import HEADLINE, READINGS, TRAINS, Label, in_order, read_labels

RESULTS = Path(__file__).parent / "data" / "fix.json"
FIX = "fix"
PARTS = ("others", "fix", "losses")


@dataclass
class Result:
    """What was measured of one network.

    ``code`` is the digest of what fix printed, empty where it printed nothing. ``outcomes`` has a label by method: of
    a network that fails that of fix, empty where ``code`` is; those of the others stand with the default scheme.
    """

    code: str = ""
    outcomes: dict[str, Label] = field(default_factory=dict)


Results = dict[str, Result]


def read_results() -> Results:
    if not RESULTS.exists():
        return {}
    results = {}
    for name, stored in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        code = stored.pop("code", "")
        results[name] = Result(code, {m: {k: Outcome(*o) for k, o in v.items()} for m, v in stored.items()})
    return results


def write_results(results: Results) -> None:
    """One line to a network, so that a new measurement shows as what it changes."""
    lines = []
    for name, result in sorted(results.items()):
        outcomes = {m: {k: astuple(o) for k, o in label.items()} for m, label in result.outcomes.items()}
        lines.append(f"{json.dumps(name)}: {json.dumps({'code': result.code, **outcomes})}")
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


# --- measurements


def measure_others(failing: Sequence[Network], labels: dict[str, Label], results: Results) -> None:
    """Train what is missing of the methods that fix is compared with."""
    work = [
        (name, method, start) for start in dict.fromkeys(map(base, failing)) for name, method in available().items()
    ]
    for name, method, start in _told(work):
        outcomes = results.setdefault(str(start), Result()).outcomes
        if name not in outcomes:
            known = labels.get(str(start)) if name == "torch default" else None
            outcomes[name] = known or outcome(method, start)
            write_results(results)


def measure_fix(every: Sequence[Network], labels: dict[str, Label], results: Results) -> None:
    """See what fix prints for each network, and train those that fail after it, where that is not what was measured."""
    for (network,) in _told([(network,) for network in every]):
        with quiet():
            code = code_of_fix(network, load(network.data))
        result, failing = results.setdefault(str(network), Result()), fails(labels[str(network)])
        if result.code == digest(network, code) and (FIX in result.outcomes or not failing):
            continue
        result.code = digest(network, code)
        if failing:
            result.outcomes[FIX] = outcome(lambda n, data, code=code: after(code, n, data), network) if code else {}
        write_results(results)


def _told(work: Sequence[tuple]) -> Iterator[tuple]:
    """Each piece of work, with a line once it is done."""
    start = time.process_time()
    for number, piece in enumerate(work, 1):
        yield piece
        what = ", ".join(str(p) for p in piece if isinstance(p, (str, Network)))
        print(f"{number}/{len(work)} {what}: {time.process_time() - start:.0f} s", flush=True)


def outcome(method: Method, network: Network) -> Label:
    """How the network trains from the method's initialization."""
    data = load(network.data)
    with quiet():
        return train(method(network, data), data)


# --- judgement


def fails(label: Label) -> bool:
    """Whether the worse of the two optimizers' best scores is too low."""
    return READINGS[HEADLINE](label) < TRAINS


@dataclass(frozen=True)
class Tally:
    """What became of the networks that do not train, and which of the others fix changes."""

    trains: dict[str, tuple[int, int]]  # by method: those that train after it, those that were measured
    unmended: dict[str, tuple[str, ...]]  # by method
    kept: int  # networks that train
    changed: tuple[str, ...]  # of these, by fix


def tally(every: Sequence[Network], labels: dict[str, Label], results: Results) -> Tally:
    bad = [n for n in every if fails(labels[str(n)])]
    good = [n for n in every if not fails(labels[str(n)])]

    def label(method: str, network: Network) -> Label | None:
        name = str(network if method == FIX else base(network))
        return results.get(name, Result()).outcomes.get(method)

    counts, unmended = {}, {}
    for method in (FIX, *OTHERS):
        measured = [n for n in bad if label(method, n) is not None]
        unmended[method] = tuple(str(n) for n in measured if fails(label(method, n) or labels[str(n)]))
        counts[method] = len(measured) - len(unmended[method]), len(measured)
    return Tally(counts, unmended, len(good), tuple(str(n) for n in good if results.get(str(n), Result()).code))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--fresh", action="store_true", help="networks made after the limits stood")
    options.add_argument("--list", action="store_true", help="name the networks that are not mended or got worse")
    options.add_argument("--train", nargs="*", choices=PARTS, help="measure all or these anew, instead of reading it")
    options.add_argument("--only-missing", action="store_true", help="with --train: keep what is there")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    print(environment())
    labels = read_labels()
    every = [n for n in in_order(fresh_networks() if given.fresh else networks()) if str(n) in labels]
    every.sort(key=lambda n: not fails(labels[str(n)]))
    parts = PARTS if given.train == [] else given.train or ()
    if given.quick:
        try_out()
    results, losses = read_results(), read_losses()
    if not given.only_missing:
        forget(parts, every, results, losses)
    if "others" in parts:
        measure_others([n for n in every if fails(labels[str(n)])], labels, results)
    if "fix" in parts:
        measure_fix(every, labels, results)
    found = tally(every, labels, results)
    if "losses" in parts:
        measure_losses([n for n in every if str(n) in found.changed], losses)
    report(found, names=given.list)
    current = {n: entry for n, entry in losses.items() if n in found.changed and entry.code == results[n].code}
    comparison = compare(current)
    print_losses(comparison, names=given.list)
    mended, failing = found.trains[FIX]
    print(
        f"fix: {mended} of {failing} networks that did not train do after fix; {len(found.changed)} of "
        f"{found.kept} that trained were changed, and the loss of {len(comparison.worse)} got worse"
    )


def forget(parts: Sequence[str], every: Sequence[Network], results: Results, losses: dict[str, Losses]) -> None:
    """Drop what the parts are about to measure."""
    for network in every:
        if "others" in parts and (start := results.get(str(base(network)))):
            start.outcomes = {method: label for method, label in start.outcomes.items() if method == FIX}
        if "fix" in parts and (result := results.get(str(network))):
            result.code = ""
            result.outcomes.pop(FIX, None)
        if "losses" in parts:
            losses.pop(str(network), None)


def try_out() -> None:
    """One network through what is measured of all."""
    network, data = Network("mlp", "relu", 13, "default"), load("digits")
    code = code_of_fix(network, data)
    assert code, "a deep network at torch's default has something to fix"
    train(after(code, network, data), data, steps=2)
    for method in available().values():
        method(network, data)


def report(found: Tally, *, names: bool) -> None:
    """Print how many networks train after each method."""
    rows = [(method, f"{n}/{of} ({n / (of or 1):.0%})") for method, (n, of) in found.trains.items()]
    show(("initialization", "networks that train now, of those that did not"), rows)
    print(f"of {found.kept} networks that train, fix changes {len(found.changed)}")
    if names:
        for method, left in found.unmended.items():
            print(f"not mended, {method}:", *left, sep="\n  ")


if __name__ == "__main__":
    main()

"""Do networks that fail to train for their initialization train after `initaudit fix`?

    python benchmarks/fix.py [--quick] [--list] [--train [--only-missing]]

Of the networks of the trainability benchmark (`trainability.py`) every one that does not train is initialized by the
code that `fix` prints, and trained again with the same data, seeds and learning rates; beside it torch's default, He's
initialization with `calculate_gain` where torch knows the activation (ReLU's gain where it does not), and LSUV
(Mishkin & Matas 2016, arXiv:1511.06422), written down from its paper. Of those that do train, the ones that `fix` would
change are trained with its code as well: none should get worse. `data/fix.json` holds what came out; `--train` measures
it anew (more than an hour of one core), in an order without order, so that a run that is stopped is a fair sample.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from _common import environment, parser, quiet, show  # first: it sets the environment of torch

# isort: split
import torch
from _networks import Network, Weights, networks
from _training import Data, Outcome, load, train
from torch import Tensor, nn
from torch.nn import init
from trainability import HEADLINE, READINGS, TRAINS, Label, in_order, read_labels

from initaudit.curing import cure, run

RESULTS = Path(__file__).parent / "data" / "fix.json"
WORSE = 0.05  # of the way from chance to all right, from which a network has got worse; at 0.95 training stops
DRAWS = 1  # the network is one draw
Results = dict[str, dict[str, Label]]  # by network, by method


# --- methods


def fixed(network: Network, data: Data) -> nn.Module | None:
    """The network after the code that fix prints; ``None`` where it prints none."""
    found = cure(lambda: _built(network, data), data.batch, draws=DRAWS)
    if not found.code:
        return None
    model = _built(network, data)
    run(found.code, model)
    return model


def torch_default(network: Network, data: Data) -> nn.Module:
    return _built(replace(network, scheme="default"), data)


def naive(network: Network, data: Data) -> nn.Module:
    """He's rule with ``calculate_gain``, biases zero, the rest at torch's default."""
    model = torch_default(network, data)
    known = network.activation if network.activation in ("relu", "tanh", "selu", "leaky_relu", "sigmoid") else "relu"
    gain = init.calculate_gain(known)
    with torch.no_grad():
        Weights(model, network.activation).all(lambda w: init.normal_(w, std=gain / w[0].numel() ** 0.5))
    return model


@torch.no_grad()
def lsuv(network: Network, data: Data, tolerance: float = 0.1, tries: int = 10) -> nn.Module:
    """Orthogonal weights, then outputs of unit variance on a batch, layer by layer in the order of the forward pass."""
    model = torch_default(network, data)
    weights = Weights(model, network.activation)
    weights.all(init.orthogonal_)
    for layer in weights.layers:
        for _ in range(tries):
            std = _output_of(model, layer, data.batch).std()
            if not std > 0 or abs(std - 1) < tolerance:
                break
            layer.weight /= std
    return model


def _output_of(model: nn.Module, layer: nn.Module, batch: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        model(batch)
    finally:
        hook.remove()
    return torch.cat([output.flatten() for output in outputs])


def _built(network: Network, data: Data) -> nn.Module:
    return network.build(data.features.shape[1], data.classes)


METHODS: dict[str, Callable[[Network, Data], nn.Module | None]] = {
    "fix": fixed,
    "torch default": torch_default,
    "He with calculate_gain": naive,
    "LSUV": lsuv,
}


# --- measurements


def read_results() -> Results:
    if not RESULTS.exists():
        return {}
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {
        name: {method: {k: Outcome(*v) for k, v in label.items()} for method, label in methods.items()}
        for name, methods in stored.items()
    }


def write_results(results: Results) -> None:
    """One line to a network, so that a new measurement shows as what it changes."""
    lines = (
        f"{json.dumps(name)}: "
        + json.dumps({m: {k: astuple(o) for k, o in label.items()} for m, label in results[name].items()})
        for name in sorted(results)
    )
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def measure(networks: Sequence[Network], labels: dict[str, Label], results: Results) -> None:
    """Train what is missing of each method and network; of networks that train, with the code of fix alone."""
    start = time.perf_counter()
    failing = [network for network in networks if fails(labels[str(network)])]
    work = [("fix", network) for network in networks]
    work += [(method, network) for network in failing for method in METHODS if method != "fix"]
    for number, (method, network) in enumerate(work, 1):
        done = results.setdefault(str(network), {})
        if method in done:
            continue
        known = labels.get(str(replace(network, scheme="default"))) if method == "torch default" else None
        done[method] = known or outcome(method, network)
        write_results(results)
        print(f"{number}/{len(work)} {method}: {network} {time.perf_counter() - start:.0f} s", flush=True)


def outcome(method: str, network: Network) -> Label:
    """How the network trains from the method's initialization; nothing where the method leaves it as it was."""
    data = load(network.data)
    with quiet():
        model = METHODS[method](network, data)
    return train(model, data) if model is not None else {}


def fails(label: Label) -> bool:
    return score(label) < TRAINS


def score(label: Label) -> float:
    """The worse of the two optimizers' best."""
    return READINGS[HEADLINE](label)


@dataclass(frozen=True)
class Tally:
    """Of the networks that do not train: those that do after each method. Of the others: changed, and made worse."""

    failing: int
    trains: dict[str, tuple[int, int]]  # those that do, those that were measured
    kept: int
    changed: int
    worse: tuple[str, ...]
    unmended: tuple[str, ...]


def tally(labels: dict[str, Label], results: Results) -> Tally:
    bad = [name for name in results if fails(labels[name])]
    good = [name for name in results if not fails(labels[name])]
    trains = {}
    for method in METHODS:
        measured = [n for n in bad if method in results[n]]
        trains[method] = sum(not fails(results[n][method] or labels[n]) for n in measured), len(measured)
    changed = [n for n in good if results[n].get("fix")]
    worse = [n for n in changed if score(results[n]["fix"]) < score(labels[n]) - WORSE]
    unmended = [n for n in bad if fails(results[n].get("fix") or labels[n])]
    return Tally(len(bad), trains, len(good), len(changed), tuple(worse), tuple(unmended))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--list", action="store_true", help="name the networks that are not mended or got worse")
    options.add_argument("--train", action="store_true", help="measure anew instead of reading what was measured")
    options.add_argument("--only-missing", action="store_true", help="with --train: keep what is there")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    print(environment())
    labels = read_labels()
    every = sorted((n for n in in_order(networks()) if str(n) in labels), key=lambda n: not fails(labels[str(n)]))
    if given.quick:
        network, data = Network("mlp", "relu", 13, "default"), load("digits")
        model = fixed(network, data)
        assert model is not None, "a deep network at torch's default has something to fix"
        train(model, data, steps=2)
    results = read_results() if not given.train or given.only_missing else {}
    if given.train:
        measure(every, labels, results)
    report(tally(labels, {name: r for name, r in results.items() if name in labels}), names=given.list)


def report(found: Tally, *, names: bool) -> None:
    """Print the tables, and the line that sums them up."""
    rows = [(method, f"{n}/{of} ({n / (of or 1):.0%})") for method, (n, of) in found.trains.items()]
    show(("initialization", "networks that train now, of those that did not"), rows)
    print(f"of {found.kept} networks that train, fix changes {found.changed}; {len(found.worse)} of these get worse")
    if names:
        print("not mended:", *found.unmended, sep="\n  ")
        print("worse:", *found.worse, sep="\n  ")
    mended, _ = found.trains["fix"]
    print(
        f"fix: {mended} of {found.failing} networks that did not train do after fix; {found.changed} of "
        f"{found.kept} that trained were changed, {len(found.worse)} of them got worse"
    )


if __name__ == "__main__":
    main()

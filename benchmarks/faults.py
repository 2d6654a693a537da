"""Does the audit find a fault that was put in, and does it point at the layer where it was put?

    python benchmarks/faults.py [--quick] [--injections 300] [--zoo N | --module collection.py] [--misses 40]

Faults of 18 kinds go, one at a time and at seeded random layers, into eight small healthy networks of different
kinds, or with `--zoo N` into N random small architectures of transformers, or into the models of any collection (see
benchmarks/zoo.py). A fault is *detected* when the audit gives a warning or an error that the healthy model does not
have, and *named* when the first new root cause is at a parameter that was changed; it is *noted* when no more than a
new note points there. A fault is *harmless* when neither the
output (its scale, its spread across samples, the number of directions it spans) nor the gradients change by a factor
of two: in total norm, or in a tenth of all parameters.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import _families
from _common import OutOfTimeError, alarms, brief, call_model, environment, parser, quiet, show, time_limit

# isort: split
import torch
from _faults import FAULTS, Fault, Site, Subject
from torch import Tensor
from zoo import Collection, load_collection, registry

from initaudit import Finding, Severity, audit
from initaudit.probe.backward import cotangents, differentiable, output_tensors

SEEDS = 3  # healthy draws of each hand-written family
Vitals = tuple[list[float], dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """One injection: did it do harm, was it seen, did the first new root cause, or a new note, point at it."""

    kind: str
    family: str
    site: Site
    harmful: bool
    found: tuple[Finding, ...]
    named: bool
    noted: bool


def vitals(subject: Subject) -> Vitals:
    """Scale, spread across samples and effective rank of each output; norm of each parameter's gradient."""
    torch.manual_seed(0)
    roots = differentiable(output_tensors(call_model(subject.model, subject.inputs)))
    scales = [scale for root in roots for scale in _scales(root.detach().double())]
    torch.autograd.backward(roots, cotangents(roots, 0))
    norms = {n: 0.0 if p.grad is None else float(p.grad.double().norm()) for n, p in subject.parameters.items()}
    subject.model.zero_grad(set_to_none=True)
    return scales, norms


def _scales(output: Tensor) -> tuple[float, float, float]:
    """Root mean square, standard deviation across samples, participation ratio of at most 64 rows."""
    spread = float(output.var(0).mean().sqrt()) if len(output) > 1 else 1.0
    rows = output.flatten(0, -2)[:64] if output.dim() > 1 else output[None]
    gram = (centred := rows - rows.mean(0)) @ centred.T
    return float(output.square().mean().sqrt()), spread, float(gram.trace() ** 2 / gram.square().sum())


def harmed(before: Vitals, after: Vitals) -> bool:
    """Whether a fault changed the signal or the training: see the module's docstring."""
    outputs = any(_differ(a, b) for a, b in zip(before[0], after[0], strict=True))
    gradients = sum(_differ(before[1][name], after[1][name]) for name in before[1]) >= 0.1 * len(before[1])
    return outputs or gradients or _differ(math.hypot(*before[1].values()), math.hypot(*after[1].values()))


def _differ(a: float, b: float) -> bool:
    return math.isfinite(a) and (not math.isfinite(b) or (max(a, b) > 2 * min(a, b) and max(a, b) > 1e-12))


def inject(fault: Fault, subject: Subject, site: Site, seed: int, healthy: Vitals) -> Outcome:
    """Put the fault in, audit, take it out again."""
    known = {(f.code, f.severity, f.fqn) for f in subject.report.findings}
    try:
        torch.manual_seed(seed)
        fault.apply(subject, site)
        harmful = harmed(healthy, vitals(subject))
        report = audit(subject.model, subject.inputs)
    finally:
        subject.heal()
    new = [f for f in report.findings if (f.code, f.severity, f.fqn) not in known]
    found, here = tuple(f for f in new if f.severity is not Severity.NOTE), places(subject, site)
    first = next((f for f in found if f.root_cause), None)
    named = first is not None and first.fqn in here
    return Outcome(fault.name, subject.name, site, harmful, found, named, not found and any(f.fqn in here for f in new))


def places(subject: Subject, site: Site) -> set[str]:
    """Every name under which a finding may point at the parameters of ``site``."""
    owned = {name.rpartition(".")[0] for name in site}
    layers = [layer for layer in subject.report.layers for p in (layer.weight, layer.bias) if p and p.fqn in site]
    tied = {alias for layer in layers for alias in layer.weight.aliases}
    return ({*site, *owned, *tied, *(layer.fqn for layer in layers)} | {a.rpartition(".")[0] for a in tied}) - {""}


def run(subjects: Sequence[tuple[Subject, Vitals]], injections: int) -> Iterator[Outcome]:
    """Every kind in turn, each in a random model where it has a place, at a random one of its places."""
    chance = random.Random(0)
    places_of = {(f.name, i): list(f.sites(s)) for f in FAULTS for i, (s, _) in enumerate(subjects)}
    kinds = [f for f in FAULTS if any(places_of[f.name, i] for i in range(len(subjects)))]
    for number in range(injections):
        fault = kinds[number % len(kinds)]
        i = chance.choice([i for i in range(len(subjects)) if places_of[fault.name, i]])
        subject, healthy = subjects[i]
        yield inject(fault, subject, chance.choice(places_of[fault.name, i]), number, healthy)


def subjects_of(collection: Collection, names: Sequence[str], seeds: int) -> Iterator[tuple[Subject, Vitals]]:
    """The healthy models; what cannot be built, run or audited within 20 s is left out, and alarms are told."""
    for name, seed in ((name, seed) for name in names for seed in range(seeds)):
        try:
            with time_limit(20):
                model, inputs = collection.build(name, seed) if seeds > 1 else collection.build(name)
                subject = Subject(name, model, inputs, audit(model, inputs))
                healthy = vitals(subject)
        except (Exception, OutOfTimeError) as error:
            print(f"  {name} left out: {type(error).__name__}: {' '.join(str(error).split())[:120]}")
            continue
        for finding in alarms(subject.report):
            print(f"  healthy {name}, seed {seed}: {finding.fqn}: {brief(finding)}")
        yield subject, healthy


def tabulate(outcomes: Sequence[Outcome], by: str, key: Callable[[Outcome], str]) -> None:
    rows = []
    for group in sorted({key(o) for o in outcomes}, key=[key(o) for o in outcomes].index):
        some = [o for o in outcomes if key(o) == group]
        rows.append((group, *counts(some)))
    show((by, "injected", "harmful", "detected", "named first", "only noted", "harmless but detected"), rows)


def counts(outcomes: Sequence[Outcome]) -> tuple[int, int, str, str, int, str]:
    harmful = [o for o in outcomes if o.harmful]
    seen = [o for o in harmful if o.found]
    harmless = [o for o in outcomes if not o.harmful]
    return (
        len(outcomes),
        len(harmful),
        f"{len(seen)}/{len(harmful)}",
        f"{sum(o.named for o in seen)}/{len(seen)}",
        sum(o.noted for o in harmful),
        f"{sum(bool(o.found) for o in harmless)}/{len(harmless)}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--injections", type=int, default=300)
    options.add_argument("--zoo", type=int, metavar="N", help="into N random architectures of transformers")
    options.add_argument("--module", metavar="PATH", help="into the models of this collection")
    options.add_argument("--misses", type=int, default=40, help="how many missed and misnamed faults to list")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    print(environment(injections=6 if given.quick else given.injections))
    started = time.perf_counter()
    with quiet():
        collection: Collection = _families
        if given.zoo or given.module:
            collection = load_collection(given.module) if given.module else registry()
        names = list(collection.names())
        if given.zoo:
            names = random.Random(0).sample(names, min(given.zoo, len(names)))
        seeds = SEEDS if collection is _families and not given.quick else 1
        subjects = list(subjects_of(collection, names[:2] if given.quick else names, seeds))
        outcomes = list(run(subjects, 6 if given.quick else given.injections))
    tabulate(outcomes, "kind", lambda o: o.kind)
    print()
    tabulate(outcomes, "family", lambda o: o.family)
    wrong = [o for o in outcomes if o.harmful and not o.named]
    print(f"\nmissed or misnamed, {min(len(wrong), given.misses)} of {len(wrong)}:")
    for o in sorted(wrong, key=lambda o: o.kind)[: given.misses]:
        first = next((f for f in o.found if f.root_cause), None)
        told = f"{first.fqn}: {brief(first, 100)}" if first else "only a note" if o.noted else "nothing new at it"
        print(f"  {o.kind} in {o.family} at {o.site[0]}{f' +{len(o.site) - 1}' * (len(o.site) > 1)}: {told}")
    total, harmful, seen, named, noted, false = counts(outcomes)
    print(
        f"faults: {total} injected, {harmful} harmful: {seen} detected, of these {named} named first; "
        f"{noted} harmful ones only noted, {false} harmless ones detected ({time.perf_counter() - started:.0f} s)"
    )


if __name__ == "__main__":
    main()

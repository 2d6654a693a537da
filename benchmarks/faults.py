"""Does the audit find a fault that was put in, and does it point at the layer where it was put?

    python benchmarks/faults.py [--quick] [--injections 2000] [--depth 4] [--seed 0] [--misses 40]
    python benchmarks/faults.py --families | --registry N | --module collection.py

Faults of 18 kinds go, one at a time and at seeded random layers, into the small architectures of
benchmarks/architectures, or with `--families` into eight small networks written by hand, with `--registry N` into N
random models of the transformers registry, or into the models of any collection (see benchmarks/zoo.py). A fault is
*detected* when the audit gives a warning or an error that the healthy model does not have, and *named* when the first
new root cause is at a parameter that was changed; it is *noted* when no more than a new note points there. A fault is
*harmless* when neither the output (its scale, its spread across samples, the number of directions it spans) nor the
gradients change by a factor of two (in total norm, or in a tenth of all parameters), and one that holds zeros or equal
rows also when all gradients are there after two small steps of gradient descent.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import _families
from _common import OutOfTimeError, alarms, brief, call_model, environment, parser, quiet, show, time_limit

# isort: split
import torch
from _faults import FAULTS, Fault, Site, Subject
from torch import Tensor
from zoo import Collection, architectures, load_collection, registry

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


@torch.no_grad()
def recovers(subject: Subject, healthy: Vitals) -> bool:
    """Whether every parameter that had a gradient has one after two small steps towards random outputs."""
    state = {name: parameter.clone() for name, parameter in subject.parameters.items()}
    for seed in (1, 2):
        torch.manual_seed(0)
        with torch.enable_grad():
            roots = differentiable(output_tensors(call_model(subject.model, subject.inputs)))
            torch.autograd.backward(roots, cotangents(roots, seed))
        for parameter in subject.parameters.values():
            if parameter.grad is not None and (size := float(parameter.grad.square().mean().sqrt())) > 0:
                step = 0.01 * max(float(parameter.square().mean().sqrt()), 0.01)
                parameter.sub_(parameter.grad, alpha=step / size)
        subject.model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        norms = vitals(subject)[1]
    for name, parameter in subject.parameters.items():
        parameter.copy_(state[name])
    return all(norms[name] > 0 for name, norm in healthy[1].items() if norm > 0)


def _differ(a: float, b: float) -> bool:
    return math.isfinite(a) and (not math.isfinite(b) or (max(a, b) > 2 * min(a, b) and max(a, b) > 1e-12))


def inject(fault: Fault, subject: Subject, site: Site, seed: int, healthy: Vitals) -> Outcome | None:
    """Put the fault in, audit, take it out again; ``None`` where the model itself refuses to run with it."""
    known = {(f.code, f.severity, f.fqn) for f in subject.report.findings}
    try:
        torch.manual_seed(seed)
        fault.apply(subject, site)
        try:
            harmful = harmed(healthy, vitals(subject))
            harmful = harmful and not (fault.recovers and recovers(subject, healthy))
        except Exception:  # whatever a model raises when it meets NaN or zero, say in a distribution's arguments
            return None
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


def run(subjects: Iterator[tuple[Subject, Vitals]], injections: int, models: int, seed: int) -> Iterator[Outcome]:
    """Into each model its share of the injections, of the kinds that had the fewest so far, at random places."""
    chance = random.Random(seed)
    done = dict.fromkeys((fault.name for fault in FAULTS), 0)
    total = 0
    for number, (subject, healthy) in enumerate(subjects, start=1):
        places_of = {fault: list(fault.sites(subject)) for fault in FAULTS}
        share = round(injections * number / models) - total
        kinds = sorted((f for f in FAULTS if places_of[f]), key=lambda f: (done[f.name], chance.random()))
        for fault in itertools.islice(itertools.cycle(kinds), share) if kinds else ():
            site = chance.choice(places_of[fault])
            if (outcome := inject(fault, subject, site, chance.randrange(1 << 30), healthy)) is not None:
                done[fault.name] += 1
                yield outcome
        total += share


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


def chosen(given: Namespace) -> tuple[Collection, list[str]]:
    """The collection that the options ask for, and which of it."""
    if given.quick or given.families:
        return _families, list(_families.names())[: 2 if given.quick else None]
    if given.module:
        collection = load_collection(given.module)
    else:
        collection = registry() if given.registry else architectures(given.depth)
    names = list(collection.names())
    random.Random(given.seed).shuffle(names)
    return collection, names[: given.registry]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--injections", type=int, default=2000)
    options.add_argument("--depth", type=int, default=4, help="blocks in each stack of the small architectures")
    options.add_argument("--seed", type=int, default=0, help="of the layers that are drawn")
    options.add_argument("--families", action="store_true", help="into eight networks written by hand")
    options.add_argument("--registry", type=int, metavar="N", help="into N random models of transformers' registry")
    options.add_argument("--module", metavar="PATH", help="into the models of this collection")
    options.add_argument("--misses", type=int, default=40, help="how many missed and misnamed faults to list")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    injections = 6 if given.quick else given.injections
    print(environment(injections=injections))
    started = time.perf_counter()
    with quiet():
        collection, names = chosen(given)
        seeds = SEEDS if collection is _families and not given.quick else 1
        outcomes = list(run(subjects_of(collection, names, seeds), injections, len(names) * seeds, given.seed))
    family = getattr(collection, "family", lambda name: name)
    tabulate(outcomes, "kind", lambda o: o.kind)
    print()
    tabulate(outcomes, "family", lambda o: family(o.family))
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

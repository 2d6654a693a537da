"""Does every function that `initaudit fix` writes run, and does it do what the plan says and nothing else?

    python benchmarks/snippets.py [--quick] [--only architectures|families|networks|faults] [--faults 100] [--seed 0]

For every architecture of benchmarks/architectures, every family of benchmarks/_models and every kind of network of the
trainability benchmark, healthy or not, a plan for the whole model is forced, once with the law that the author chose
and once as depth asks for it. It is written as code, the code is executed in an empty namespace, and on a fresh build
every parameter in the plan is compared with it: what is drawn by its rms within six standard errors, orthogonal rows by
their products, constants exactly. No other parameter may have changed. A sample of the functions is run in a process of
its own and must give the very same numbers. Then faults are injected into healthy models, and what `cure` writes is
checked in the same way.
"""

from __future__ import annotations

import copy
import gc
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from _common import environment, parser, quiet, show  # first: it sets the environment of torch

# isort: split
import _models
import torch
from _emitted import code_of, differences, foreign_calls, values_of
from torch import nn

from initaudit import audit, curing
from initaudit.advice.plan import Planner, Reach
from initaudit.advice.settings import Setting

FOLDER = Path(__file__).parent
ELSEWHERE = 4  # every so manieth model also runs its code in another process
Build = Callable[[str, int], tuple[nn.Module, Any]]


@dataclass
class Tally:
    """One collection: models, functions, parameters compared, lines, and what was wrong."""

    title: str
    models: int = 0
    codes: int = 0
    compared: int = 0
    lines: list[int] = field(default_factory=list)
    per_parameter: list[float] = field(default_factory=list)
    elsewhere: int = 0
    wrong: list[str] = field(default_factory=list)

    def check(self, name: str, code: str, model: nn.Module, settings: Sequence[Setting]) -> None:
        """Run the code on the model and compare; ``model`` is one that may be changed."""
        before = values_of(model)
        self.codes += 1
        self.compared += len(settings)
        written = len(code.splitlines()) - 7  # but for the imports, the head and the docstring
        self.lines.append(written)
        self.per_parameter.append(written / max(1, len({s.parameter for s in settings})))
        try:
            curing.run(code, model)
        except Exception:  # whatever the code does
            self.wrong.append(f"{name}: does not run: {traceback.format_exc(limit=-1).splitlines()[-1]}")
            return
        self.wrong += [f"{name}: {what}" for what in differences(model, before, settings)]
        self.wrong += [f"{name}: calls {what}" for what in foreign_calls(code)]

    def row(self) -> tuple[object, ...]:
        return (
            self.title, self.models, self.codes, self.compared, f"{median(self.lines or [0]):.0f}",
            max(self.lines, default=0), f"{sum(self.lines) / max(1, self.compared):.2f}", self.elsewhere,
            len(self.wrong),
        )  # fmt: skip


def whole_plans(tally: Tally, names: Sequence[str], build: Build, *, module: str | None) -> None:
    """Force a plan for each model, write it, run it on a fresh build, and compare."""
    pasted: list[tuple[str, str]] = []
    for number, name in enumerate(names):
        with quiet():
            try:
                model, inputs = build(name, 0)
            except LookupError as missing:
                print(f"  skipped {name}: {missing}")
                continue
            tally.models += 1
            trace = audit(model, inputs).trace
            assert trace is not None
            for reach in (Reach.EVERY, Reach.DEEP):
                settings = Planner(trace, ()).plan(reach)
                code = code_of(model, settings)
                tally.check(f"{name}, {reach.name.lower()}", code, build(name, 1)[0], settings)
                if reach is Reach.EVERY and number % ELSEWHERE == 0:
                    pasted.append((name, code))
        gc.collect()  # models that hold themselves
    if module is not None and pasted:
        elsewhere(tally, pasted, build, module)


def elsewhere(tally: Tally, pasted: Sequence[tuple[str, str]], build: Build, module: str) -> None:
    """Run the functions in a fresh process, as pasted into files, and compare what they give there and here."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (_, code) in enumerate(pasted):
            (Path(folder) / f"init_{number}.py").write_text(code, encoding="utf-8")
        script = Path(folder) / "pasted.py"
        script.write_text(
            "import sys, importlib, torch\n"
            f"sys.path[:0] = [{folder!r}, {str(FOLDER)!r}]\n"
            "import _common\n"
            "torch.set_num_threads(1)\n"
            f"build = importlib.import_module({module!r}).build\n"
            "sums = []\n"
            f"for number, name in enumerate({[name for name, _ in pasted]!r}):\n"
            "    with _common.quiet():\n"
            "        model = build(name, 1)[0]\n"
            "    torch.manual_seed(7)\n"
            "    importlib.import_module(f'init_{number}').init_weights(model)\n"
            "    sums.append([float(p.detach().double().sum()) for p in model.parameters()])\n"
            f"torch.save(sums, {str(Path(folder) / 'sums.pt')!r})\n",
            encoding="utf-8",
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        if done.returncode:
            tally.wrong.append(f"another process: {done.stderr.strip().splitlines()[-1]}")
            return
        sums = torch.load(Path(folder) / "sums.pt")
    for (name, code), there in zip(pasted, sums, strict=True):
        with quiet():
            model = build(name, 1)[0]
        torch.manual_seed(7)
        curing.run(code, model)
        here = [float(p.detach().double().sum()) for p in model.parameters()]
        tally.elsewhere += 1
        if here != there:
            tally.wrong.append(f"{name}: other numbers in another process")


def trainability_networks() -> tuple[list[str], Build]:
    """One network of each family, activation and depth of the trainability benchmark."""
    from _networks import networks

    known = {f"{n.family} {n.activation} {n.depth}": replace(n, seed=0) for n in reversed(list(networks()))}

    def build(name: str, seed: int) -> tuple[nn.Module, Any]:
        model = replace(known[name], seed=seed).build(64, 10)
        return model, torch.randn(32, 64, generator=torch.Generator().manual_seed(seed))

    return list(known), build


def faulty(tally: Tally, count: int, seed: int) -> None:
    """Inject faults into healthy models, cure them, and check the code against its settings."""
    import _families
    from _faults import FAULTS, Subject

    written: list[Sequence[Setting]] = []
    function = curing.init_function

    def recorded(settings: Sequence[Setting], *arguments: Any, **options: Any) -> str:
        written.append(settings)
        return function(settings, *arguments, **options)

    chosen = random.Random(seed)
    subjects = []
    for name in _families.names()[: 1 if count == 1 else None]:
        model, inputs = _families.build(name, seed)
        subjects.append(Subject(name, model, inputs, audit(model, inputs)))
    for subject, fault, site in _injections(subjects, FAULTS, chosen, count):
        torch.manual_seed(seed)
        fault.apply(subject, site)
        with mock.patch.object(curing, "init_function", recorded):
            cure = curing.cure(subject.model, subject.inputs, draws=1)
        tally.models += 1
        if cure.code:
            settings = next(s for s in reversed(written) if function_of(subject.model, s, function) == cure.code)
            tally.check(f"{subject.name}, {fault.name} at {site[0]}", cure.code, copy.deepcopy(subject.model), settings)
        subject.heal()


def function_of(model: nn.Module, settings: Sequence[Setting], function: Callable[..., str]) -> str:
    """The code of the settings under the title that a cure has."""
    return code_of(model, settings).replace("A plan for the whole model.", curing.TITLE)


def _injections(subjects: Sequence[Any], faults: Sequence[Any], chosen: random.Random, count: int) -> Iterator[Any]:
    """So many faults at random sites of random subjects, kinds in turn."""
    done = 0
    while done < count:
        fault, subject = faults[done % len(faults)], chosen.choice(subjects)
        sites = list(fault.sites(subject))
        if not sites:
            subject = next((s for s in subjects if list(fault.sites(s))), None)
            if subject is None:
                done += 1
                continue
            sites = list(fault.sites(subject))
        done += 1
        yield subject, fault, chosen.choice(sites)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=("architectures", "families", "networks", "faults"))
    options.add_argument("--faults", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    print(environment())
    tallies = []
    for title in ("architectures", "families", "networks", "faults"):
        if given.only not in (None, title) or (given.quick and title in ("architectures", "networks")):
            continue
        tally = Tally(title)
        tallies.append(tally)
        if title == "architectures":
            import architectures

            whole_plans(tally, architectures.names(), architectures.build, module="architectures")
        elif title == "families":
            names = _models.names()[:2] if given.quick else _models.names()
            whole_plans(tally, names, _models.build, module=None if given.quick else "_models")
        elif title == "networks":
            whole_plans(tally, *trainability_networks(), module=None)
        else:
            faulty(tally, 1 if given.quick else given.faults, given.seed)
        for what in tally.wrong:
            print(f"  {what}", flush=True)
    columns = ("models", "functions", "settings", "lines, median", "most", "lines per setting", "elsewhere", "wrong")
    show(("collection", *columns), [tally.row() for tally in tallies])
    wrong = sum(len(t.wrong) for t in tallies)
    print(
        f"snippets: {sum(t.codes for t in tallies)} functions run, {sum(t.compared for t in tallies)} settings "
        f"compared, {sum(t.elsewhere for t in tallies)} functions in another process as well, {wrong} wrong"
    )


if __name__ == "__main__":
    main()

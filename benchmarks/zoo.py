"""What does an audit say of the models that people use, at their own initialization?

    python benchmarks/zoo.py [NAME ...] [--quick] [--seconds 60] [--module collection.py] [--default-size NAME ...]

Without options, a small random model of every architecture that the installed transformers knows. `--module` takes a
Python file with `names()` and `build(name)`, which returns a model and its inputs, and audits that collection;
`--default-size` audits architectures in the size of their default configuration. Nothing is downloaded. An
architecture that cannot be built or run small is counted as skipped, with the reason; an exception out of the audit
is counted as an error.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from _common import (
    OutOfTimeError,
    alarms,
    brief,
    environment,
    parser,
    quiet,
    show,
    time_limit,
)  # first: sets torch's environment

# isort: split
import torch

from initaudit import Finding, audit
from initaudit.target.hub import transformers_factory

QUICK = ("bert", "gpt2", "resnet")


class Collection(Protocol):
    """Where models come from: a module or an object."""

    def names(self) -> Sequence[str]: ...

    def build(self, name: str) -> tuple[Any, Any]: ...


class DefaultSize:
    """transformers architectures in the size of their default configuration; the audit finds the inputs."""

    def names(self) -> Sequence[str]:
        return ()

    def build(self, name: str) -> tuple[Any, None]:
        torch.manual_seed(0)
        return transformers_factory(name)().train(), None


@dataclass(frozen=True)
class Result:
    """One architecture: ``verdict`` is that of the audit, or ``"exception"``, ``"too slow"``, ``"skipped"`` and why."""

    name: str
    verdict: str
    seconds: float = 0.0
    findings: tuple[Finding, ...] = field(default=())
    reason: str = ""


def registry() -> Collection:
    """Every architecture in transformers' registry."""
    import _registry

    return _registry


def load_collection(path: str) -> Collection:
    """The Python file at ``path`` as a collection. Raises ``SystemExit`` when it lacks ``names`` or ``build``."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if missing := [name for name in ("names", "build") if not callable(getattr(module, name, None))]:
        raise SystemExit(f"{path} lacks {' and '.join(missing)}; a collection offers names() and build(name)")
    return module


def examine(name: str, build: Callable[[str], tuple[Any, Any]], seconds: int) -> Result:
    """Build one model and audit it within a time limit, whatever happens."""
    try:
        with time_limit(seconds):
            model, inputs = build(name)
    except (Exception, OutOfTimeError) as error:  # the collection's own affair
        return Result(name, "skipped", reason=_reason(error))
    started = time.perf_counter()
    try:
        with time_limit(seconds):
            report = audit(model, inputs)
    except OutOfTimeError:
        return Result(name, "too slow", time.perf_counter() - started, reason=f"more than {seconds} s")
    except Exception as error:  # what the benchmark is there to count
        return Result(name, "exception", time.perf_counter() - started, reason=_reason(error))
    return Result(name, report.verdict, time.perf_counter() - started, tuple(alarms(report)))


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return (said if type(error) is LookupError else f"{type(error).__name__}: {said}")[:200]


def describe(result: Result) -> None:
    """Print one architecture: a line, and one more for each finding above a note."""
    print(f"{result.name:<32} {result.verdict:<9} {result.seconds:5.1f} s  {result.reason}", flush=True)
    for finding in result.findings:
        cause = "cause" if finding.root_cause else "follows"
        print(f"    {cause:<7} {finding.fqn}: {brief(finding)}", flush=True)


def summarize(results: Sequence[Result]) -> None:
    """Print totals, why architectures were skipped, and the slowest audits."""
    audited = [r for r in results if r.verdict not in ("skipped", "too slow")]
    counts = Counter(r.verdict for r in results)
    warned = sum(r.verdict == "pass" and bool(r.findings) for r in audited)
    clean = sum(r.verdict == "pass" and not r.findings for r in audited)
    codes = Counter((f.code, f.severity.value) for r in audited for f in r.findings if f.root_cause)
    reasons = Counter(r.reason.split(":")[0] for r in results if r.verdict == "skipped")
    print()
    show(("root causes", "severity", "findings"), [(code, how, n) for (code, how), n in codes.most_common()])
    if reasons:
        print("skipped:", ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()))
    slowest = sorted(audited, key=lambda r: -r.seconds)[:5]
    print("slowest audits:", ", ".join(f"{r.name} {r.seconds:.1f} s" for r in slowest))
    passed = f"{counts['pass']} pass ({100 * counts['pass'] / max(1, len(audited)):.1f}%"
    print(
        f"zoo: {len(audited)} audited, {passed}; {clean} without and {warned} with a warning), "
        f"{counts['fail']} fail, {counts['exception']} exceptions, {counts['too slow']} too slow; "
        f"{counts['skipped']} skipped"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help="audit only these")
    options.add_argument("--seconds", type=int, default=60, help="time limit of one build and of one audit")
    options.add_argument("--module", metavar="PATH", help="a Python file with names() and build(name)")
    options.add_argument("--default-size", nargs="+", metavar="NAME", help="these, in their default size")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    with quiet():
        import transformers

        print(environment(transformers=transformers.__version__))
        collection: Collection
        if given.default_size:
            collection, names = DefaultSize(), given.default_size
        else:
            collection = load_collection(given.module) if given.module else registry()
            names = given.names or (QUICK if given.quick else collection.names())
        results = []
        for name in names:
            results.append(examine(name, collection.build, given.seconds))
            describe(results[-1])
    summarize(results)


if __name__ == "__main__":
    main()

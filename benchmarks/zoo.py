"""What does an audit say of the models that people use, at their own initialization?

    python benchmarks/zoo.py [NAME ...] [--quick] [--depth 4] [--seconds 60]
    python benchmarks/zoo.py --default-size [NAME ...]
    python benchmarks/zoo.py --registry | --module collection.py

Without options, the small random models of benchmarks/architectures, each with an input that fits; `--depth` gives
them that many blocks in place of one or two. `--default-size` audits models in the size of the library's default
configuration, `--registry` a model of every type that the installed transformers knows, shrunk by rule. `--module`
takes a Python file with `names()` and `build(name)`, which returns a model and its inputs, and audits that collection.
Nothing is downloaded. An architecture that cannot be built or run is counted as skipped, with the reason; an exception
out of the audit is counted as an error.
"""

from __future__ import annotations

import importlib.util
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
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
from torch import nn

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
        """Those that fit into 5 GiB with their gradients and take less than a minute on one idle core."""
        return (
            "bert distilbert roberta electra gpt2 t5 bart vit deit resnet convnext swin clip wav2vec2 whisper mamba"
        ).split()

    def build(self, name: str) -> tuple[Any, None]:
        torch.manual_seed(0)
        return transformers_factory(name)().train(), None


@dataclass(frozen=True)
class Deepened:
    """The project's own collection with ``depth`` blocks in each stack."""

    depth: int

    def names(self) -> Sequence[str]:
        return architectures().names()

    def family(self, name: str) -> str:
        import architectures

        return architectures.family(name)

    def build(self, name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
        import architectures

        return architectures.build(name, seed, self.depth)


@dataclass(frozen=True)
class Result:
    """One architecture: ``verdict`` is that of the audit, or ``"exception"``, ``"too slow"``, ``"skipped"`` and why."""

    name: str
    verdict: str
    seconds: float = 0.0
    findings: tuple[Finding, ...] = field(default=())
    reason: str = ""


def architectures(depth: int | None = None) -> Collection:
    """The project's own collection: small configs of transformers, each with an input. Imports transformers."""
    import architectures

    return Deepened(depth) if depth else architectures


def registry() -> Collection:
    """Every architecture in transformers' registry. Imports transformers."""
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
    options.add_argument("--depth", type=int, metavar="N", help="blocks in each stack of the small models")
    options.add_argument(
        "--seconds", type=int, help="time limit of one build and of one audit: 60, or 600 in full size"
    )
    source = options.add_mutually_exclusive_group()
    source.add_argument("--registry", action="store_true", help="every model type that transformers knows")
    source.add_argument("--module", metavar="PATH", help="a Python file with names() and build(name)")
    source.add_argument("--default-size", action="store_true", help="models in the library's default size")
    given = options.parse_args(arguments)
    if given.depth and (given.registry or given.module or given.default_size):
        options.error("--depth sizes the models of benchmarks/architectures, which this option replaces")
    torch.set_num_threads(1)
    with quiet():
        print(environment(**_version_of_transformers()))
        collection = chosen(given)
        names = given.names or (QUICK if given.quick and not given.module else collection.names())
        seconds = given.seconds or (600 if given.default_size else 60)
        results = []
        for name in names:
            results.append(examine(name, collection.build, seconds))
            describe(results[-1])
    summarize(results)


def chosen(given: Namespace) -> Collection:
    """The collection that the options name. Raises ``SystemExit`` when it needs transformers and there is none."""
    if given.module:
        return load_collection(given.module)
    if importlib.util.find_spec("transformers") is None:
        raise SystemExit("these models come from transformers, which is not installed: pip install 'initaudit[hf]'")
    if given.default_size:
        return DefaultSize()
    return registry() if given.registry else architectures(given.depth)


def _version_of_transformers() -> dict[str, str]:
    try:
        return {"transformers": version("transformers")}
    except PackageNotFoundError:  # a collection of one's own may do without
        return {}


if __name__ == "__main__":
    main()

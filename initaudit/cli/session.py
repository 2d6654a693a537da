"""A run over all targets: what was collected, what the reports are, what went wrong in initaudit itself."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from initaudit.cli.crew import Crew, Result, Step
from initaudit.cli.expression import Predicate
from initaudit.cli.progress import Progress
from initaudit.errors import AuditError, UsageError
from initaudit.records import Failure, Finding, Report, Trace, Unjudged
from initaudit.report.figures import listed
from initaudit.report.outcome import outcome
from initaudit.rules import diagnose
from initaudit.rules.draws import audit_draws
from initaudit.runner import Collection, InternalError, ProbeOptions, Runner
from initaudit.settings import Settings

if TYPE_CHECKING:
    from initaudit.runner import Worker

ONE_DRAW = Unjudged("", "it is built already, so there is one draw of it and --seeds does not apply")


@dataclass
class Run:
    """Everything a run comes to. ``defects`` are tracebacks of initaudit's own errors, ``ids`` all models kept."""

    settings: Settings
    keep: Predicate
    progress: Progress
    reports: list[Report] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    def collect(self, worker: Worker) -> None:
        """Fill :attr:`ids`; what cannot be loaded becomes a report. ``worker`` is the first, and running."""
        self._run(worker, only_load=True)

    def audit(self, worker: Worker) -> None:
        """Fill :attr:`reports`, up to the first failure under ``-x``."""
        self._run(worker, only_load=False)

    def _run(self, worker: Worker, *, only_load: bool) -> None:
        targets, count = self.settings.targets, self.settings.workers
        exitfirst = self.settings.exitfirst and not only_load
        settings = replace(self.settings, exitfirst=exitfirst)
        instances: set[str] = set()
        hands = [
            Auditor(settings, self.keep, self.progress.show, instances, None if n else worker) for n in range(count)
        ]
        with Crew(hands, len(targets), only_load=only_load) as crew:
            for place, target in enumerate(targets):
                loaded = crew.result(place)
                self._note(target, loaded)
                for number, model in enumerate(() if only_load else loaded.models, start=1):
                    audited = crew.result(place, number)
                    self._note(model, audited)
                    if audited.ends:
                        return
                if loaded.ends:
                    return

    def _note(self, name: str, result: Result) -> None:
        """Take up the result of loading, or auditing, what has that name."""
        self.ids += result.models
        if result.report is not None:
            self.reports.append(result.report)
        if result.defect:
            self.defects.append(result.defect)
        if result.printed.strip() and (self.settings.verbose or (result.failed and not self.settings.quiet)):
            self.progress.printed(name, result.printed)
        if result.remark:
            self.progress.say(result.remark)


class Auditor:
    """One hand of the crew: loads targets and audits their models, in one worker process per target.

    ``instances`` are the models that are built already, which all hands add to; ``worker`` is for the first target.
    """

    def __init__(
        self,
        settings: Settings,
        keep: Predicate,
        show: Callable[[str], None],
        instances: set[str],
        worker: Worker | None,
    ) -> None:
        self._settings = settings
        self._keep = keep
        self._show = show
        self._instances = instances
        self._worker = worker
        self._runner: Runner | None = None
        self._target = -1

    def do(self, step: Step) -> Result:
        """Load a target, or audit one of its models."""
        try:
            runner = self._runner_of(step.target)
            result = self._audit(runner, step) if step.number else self._load(runner)
        except BaseException as error:  # to be raised in the main thread
            return Result(error=error, ends=True)
        failed = result.report is not None and outcome(result.report, self._settings.fail_on) != "pass"
        return replace(result, ends=failed and self._settings.exitfirst, printed=runner.printed())

    def kill(self) -> None:
        """End the worker process, if there is one."""
        if runner := self._runner:
            runner.kill()

    def close(self) -> None:
        """End the worker process as its code expects: exit handlers run."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)
            self._runner = None

    def _runner_of(self, target: int) -> Runner:
        if self._runner is None or self._target != target:
            self.close()
            s = self._settings
            options = ProbeOptions(
                inputs=list(s.input) or None,
                loss=s.loss,
                device=s.device,
                dtype=s.dtype,
                seed=s.seed,
                weights_only=s.weights_only,
            )
            self._runner = Runner(s.targets[target], options, timeout=s.timeout, workers=s.workers, worker=self._worker)
            self._target, self._worker = target, None
        return self._runner

    def _load(self, runner: Runner) -> Result:
        self._show(f"{runner.target}: load")
        try:
            found = runner.collect()
        except (AuditError, InternalError) as error:
            return _failed(runner.target, error)
        if self._settings.seeds > 1 and runner.target in found.instances:
            raise UsageError(
                f"--seeds {self._settings.seeds}: {runner.target} is built already, so there is one draw of it; "
                "name a class or a function that builds it anew"
            )
        self._instances |= found.instances
        kept = tuple(model for model in found.ids if self._keep(model))
        return Result(kept, failed=not found.ids, remark="" if kept else _why_none(runner.target, found))

    def _audit(self, runner: Runner, step: Step) -> Result:
        start = time.perf_counter()
        model, label = step.model, f"[{step.number}/{step.of}] {step.model}"
        self._show(label)
        first, count = self._settings.seed, self._settings.seeds
        single = count == 1 or model in self._instances
        seeds = (first,) if single else tuple(range(first, first + count))

        def probe(seed: int) -> Trace:
            draw = label if single else f"{label}, seed {seed}"
            trace = runner.probe(model, lambda stage: self._show(f"{draw}: {stage}"), seed=seed, compare=seed == first)
            return replace(trace, unjudged=(*trace.unjudged, ONE_DRAW)) if single and count > 1 else trace

        try:
            verdict = audit_draws(seeds, probe, self._diagnose)
        except (AuditError, InternalError) as error:
            return _failed(model, error, time.perf_counter() - start)
        return Result(report=replace(verdict, target=model, seconds=time.perf_counter() - start))

    def _diagnose(self, trace: Trace) -> tuple[Finding, ...]:
        try:
            return diagnose(trace, select=self._settings.select, ignore=self._settings.ignore)
        except UsageError:
            raise
        except Exception as error:
            raise InternalError("diagnosis", traceback.format_exc()) from error


def _failed(name: str, error: AuditError | InternalError, seconds: float = 0.0) -> Result:
    if isinstance(error, InternalError):
        failure = Failure(error.stage, f"internal error, a bug in initaudit: {error}")
        return Result(report=Report(name, error=failure, seconds=seconds), failed=True, defect=error.traceback)
    return Result(report=Report(name, error=Failure(error.stage, str(error)), seconds=seconds), failed=True)


def _why_none(target: str, found: Collection) -> str:
    if found.ids:
        return f"{target}: -k matches none of the models collected: {listed(found.ids, keep=5)}"
    return found.empty

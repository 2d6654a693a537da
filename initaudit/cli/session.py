"""A run over all targets: what was collected, what the reports are, what went wrong in initaudit itself."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field, replace

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
    _instances: frozenset[str] = frozenset()

    def collect(self) -> None:
        """Fill :attr:`ids`; what cannot be loaded becomes a report."""
        for target in self.settings.targets:
            with self._runner(target) as runner:
                self._collect(runner)

    def audit(self) -> None:
        """Fill :attr:`reports`, up to the first failure under ``-x``."""
        for target in self.settings.targets:
            with self._runner(target) as runner:
                ids = self._collect(runner)
                for number, model in enumerate(ids, start=1):
                    self.reports.append(self._audit(runner, model, f"[{number}/{len(ids)}] {model}"))
                    self._show_printed(runner, model, failed=self.reports[-1].error is not None)
                    if self._enough():
                        return
            if self._enough():
                return

    def _runner(self, target: str) -> Runner:
        s = self.settings
        options = ProbeOptions(inputs=list(s.input) or None, loss=s.loss, device=s.device, dtype=s.dtype, seed=s.seed)
        return Runner(target, options, timeout=s.timeout)

    def _collect(self, runner: Runner) -> list[str]:
        self.progress.show(f"{runner.target}: load")
        try:
            found = runner.collect()
        except (AuditError, InternalError) as error:
            self.reports.append(Report(runner.target, error=self._failure(error)))
            self._show_printed(runner, runner.target, failed=True)
            return []
        self._show_printed(runner, runner.target, failed=not found.ids)
        kept = [model for model in found.ids if self.keep(model)]
        if not kept:
            self.progress.say(_why_none(runner.target, found))
        if self.settings.seeds > 1 and runner.target in found.instances:
            raise UsageError(
                f"--seeds {self.settings.seeds}: {runner.target} is built already, so there is one draw of it; "
                "name a class or a function that builds it anew"
            )
        self.ids += kept
        self._instances = found.instances
        return kept

    def _audit(self, runner: Runner, model: str, label: str) -> Report:
        start = time.perf_counter()
        self.progress.show(label)
        first, count = self.settings.seed, self.settings.seeds
        single = model in self._instances or count == 1
        seeds = (first,) if single else tuple(range(first, first + count))

        def probe(seed: int) -> Trace:
            draw = label if single else f"{label}, seed {seed}"
            trace = runner.probe(
                model, lambda stage: self.progress.show(f"{draw}: {stage}"), seed=seed, compare=seed == first
            )
            return replace(trace, unjudged=(*trace.unjudged, ONE_DRAW)) if single and count > 1 else trace

        try:
            verdict = audit_draws(seeds, probe, self._diagnose)
        except (AuditError, InternalError) as error:
            return Report(model, error=self._failure(error), seconds=time.perf_counter() - start)
        return replace(verdict, target=model, seconds=time.perf_counter() - start)

    def _diagnose(self, trace: Trace) -> tuple[Finding, ...]:
        try:
            return diagnose(trace, select=self.settings.select, ignore=self.settings.ignore)
        except UsageError:
            raise
        except Exception as error:
            raise InternalError("diagnosis", traceback.format_exc()) from error

    def _failure(self, error: AuditError | InternalError) -> Failure:
        if isinstance(error, InternalError):
            self.defects.append(error.traceback)
            return Failure(error.stage, f"internal error, a bug in initaudit: {error}")
        return Failure(error.stage, str(error))

    def _show_printed(self, runner: Runner, name: str, *, failed: bool) -> None:
        text = runner.printed()
        if text.strip() and (self.settings.verbose or (failed and not self.settings.quiet)):
            self.progress.printed(name, text)

    def _enough(self) -> bool:
        last = self.reports[-1:]
        return self.settings.exitfirst and any(outcome(r, self.settings.fail_on) != "pass" for r in last)


def _why_none(target: str, found: Collection) -> str:
    if found.ids:
        return f"{target}: -k matches none of the models collected: {listed(found.ids, keep=5)}"
    return found.empty

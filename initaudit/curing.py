"""The cure of one model, end to end: audit, plan, code, and a second audit of what the code makes of a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initaudit.advice.data_driven import is_measured
from initaudit.advice.facts import ModuleFact, facts_of
from initaudit.advice.open_ends import remarks
from initaudit.advice.prove import Outcome, alarms, improves, search, vitals
from initaudit.advice.settings import Setting
from initaudit.advice.snippet import init_function
from initaudit.engine import probe_target
from initaudit.errors import AuditError
from initaudit.probe.restore import random_state
from initaudit.records import Cure, Failure, Report, Trace, Vitals
from initaudit.rules import diagnose
from initaudit.rules.draws import audit_draws
from initaudit.target.inputs import candidate_inputs
from initaudit.target.load import Target

DRAWS = 3  # that the cure is proven on
TITLE = "Initialization by initaudit, checked by a second audit."
LAZY = "Call it after the first run, which makes the lazy parameters."


def cure(model: nn.Module | Callable[[], nn.Module], inputs: Any = None, *, draws: int = DRAWS, **options: Any) -> Cure:
    """What mends the initialization of ``model``, as code, and what an audit says of the model that has run it.

    Args:
        model: an ``nn.Module``, which is left exactly as it was, or a factory that takes no argument and returns one.
        inputs, options: as for :func:`initaudit.audit`.
        draws: how many seeds the cure is tried with.

    Raises:
        AuditError: the model could not be built or run; ``stage`` tells where.
    """
    instance = model if isinstance(model, nn.Module) else None
    name = type(model).__name__ if instance is not None else getattr(model, "__qualname__", type(model).__name__)
    factory: Callable[[], nn.Module] = model if instance is None else lambda: instance
    target = Target(id=name, name=name, factory=factory, is_factory=instance is None)
    return cure_target(target, inputs=inputs, draws=draws, **options)


def cure_target(
    target: Target,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    progress: Callable[[str], None] = lambda stage: None,
    **options: Any,
) -> Cure:
    """The cure of one collected target; ``options`` are those of :func:`~initaudit.engine.probe_target`."""
    judge = partial(diagnose, select=select, ignore=ignore)
    probe = partial(probe_target, progress=progress, **options)
    seeds = tuple(range(seed, seed + draws))
    given = _Draws(target, seeds if target.is_factory else seeds[:1], probe, judge)
    before = given.report()
    parameters = len(before.trace.parameters) if before.trace else 0
    unhealed = Cure(before, parameters=parameters, vitals_before=tuple(given.vitals))
    if not alarms(before.findings):
        return unhealed
    model = given.built(seed)
    lazy = _is_lazy(model)
    if lazy:
        target = replace(target, factory=partial(_run_once, target, options.get("inputs"), seed))
        model = _Draws(target, seeds, probe, judge).built(seed)
    workshop = _Workshop(target, model, probe, judge, seed, f"{TITLE} {LAZY}" if lazy else TITLE)
    own = judge(before.trace) if before.trace else ()
    found = search(replace(before, findings=own) if alarms(own) else before, workshop.attempt)
    if not found.settings:
        return replace(unhealed, remarks=remarks(before))
    code = workshop.code(found)
    treated = _Draws(workshop.treated(code), seeds, partial(probe, compare=False), judge)
    after = treated.report_or_failure()
    if not improves(after, before):
        return replace(unhealed, remarks=remarks(before))
    changed = tuple(dict.fromkeys(setting.parameter for setting in found.settings))
    return replace(
        unhealed,
        after=after,
        code=code,
        changed=changed,
        measured=is_measured(found.settings),
        lazy=lazy,
        vitals_after=tuple(treated.vitals),
        remarks=remarks(after, changed),
    )


@dataclass
class _Draws:
    """Audits of several draws of a target, with the figures of each."""

    target: Target
    seeds: tuple[int, ...]
    probe: Callable[..., Trace]
    judge: Callable[[Trace], Any]
    vitals: list[Vitals] = field(default_factory=list)

    def report(self) -> Report:
        return replace(audit_draws(self.seeds, self._probe, self.judge), target=self.target.id)

    def report_or_failure(self) -> Report:
        """The report, also of a model that no longer runs: then the cure is none."""
        try:
            return self.report()
        except AuditError as error:
            return Report(self.target.id, error=Failure(error.stage, str(error)))

    def built(self, seed: int) -> nn.Module:
        with random_state(seed):
            model = self.target.build()
        unwrapped: nn.Module = getattr(model, "_orig_mod", model)
        return unwrapped

    def _probe(self, seed: int) -> Trace:
        trace = self.probe(self.target, seed=seed)
        self.vitals.append(vitals(trace))
        return trace


@dataclass
class _Workshop:
    """Where plans are tried: copies of one built model, or new draws of a factory, that run the code."""

    target: Target
    model: nn.Module
    probe: Callable[..., Trace]
    judge: Callable[[Trace], Any]
    seed: int
    title: str

    def attempt(self, settings: Sequence[Setting]) -> Report:
        """The audit of one draw that has the settings."""
        treated = self.treated(self.code(Outcome(tuple(settings), Report(self.target.id))))
        return _Draws(treated, (self.seed,), partial(self.probe, compare=False), self.judge).report_or_failure()

    def code(self, outcome: Outcome) -> str:
        constants = {
            name: float(p.detach().flatten()[0])
            for name, p in self.model.named_parameters()
            if p.numel() and _is_constant(p)
        }
        code = init_function(outcome.settings, self.facts, constants, title=self.title)
        try:  # here, and not in an attempt, where it would pass for a cure that does not help
            compile(code, "<init_weights>", "exec")
        except SyntaxError as error:
            raise RuntimeError(f"the code of the cure is no Python, a bug in initaudit: {error}\n{code}") from error
        return code

    @property
    def facts(self) -> tuple[ModuleFact, ...]:
        return facts_of(self.model)

    def treated(self, code: str) -> Target:
        """The target after ``init_weights`` of ``code``, each time on a new build or a copy."""

        def build() -> nn.Module:
            model = self.target.build()
            model = getattr(model, "_orig_mod", model)
            if not self.target.is_factory:
                model = _copied(model)
            run(code, model)
            return model

        return replace(self.target, factory=build, is_factory=False)


def run(code: str, model: nn.Module) -> None:
    """Define ``init_weights`` as ``code`` does and call it on ``model``: what pasting the code comes to."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "<init_weights>", "exec"), namespace)
    namespace["init_weights"](model)


def _is_lazy(model: nn.Module) -> bool:
    return any(is_lazy(p) for p in model.parameters())


def _run_once(target: Target, inputs: Any, seed: int) -> nn.Module:
    """A model of the target that has run on its sample input, so that its lazy parameters have shapes and values.

    Raises:
        AuditError: it ran on none.
    """
    model = target.build()
    model = model if target.is_factory else _copied(model)
    error: Exception | None = None
    for fed in candidate_inputs(model, given=inputs, module=target.module, name=target.name, seed=seed):
        try:
            with torch.no_grad():
                model(*fed.args, **fed.kwargs)
            return model
        except Exception as reason:  # whatever a model raises on an input that does not fit
            error = error or reason
    raise AuditError("forward", f"lazy parameters need a first run, and the model ran on no input: {error}") from error


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise AuditError("load", f"the model must be copied to try the cure on it, and that failed: {error}") from error


def _is_constant(parameter: torch.Tensor) -> bool:
    return bool((parameter == parameter.flatten()[0]).all())

"""The rules, and the diagnosis that they make together. A rule is added by its file and one line in :data:`RULES`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence

from initaudit.errors import UsageError
from initaudit.records import Finding, Trace
from initaudit.rules import (
    bias_dominates,
    collapsed_tokens,
    dead_units,
    drawn_gains,
    exploding_activations,
    exploding_gradients,
    factor_disagrees,
    fan_out_for_fan_in,
    gate_bias,
    identical_copies,
    indistinguishable_samples,
    loss_at_init,
    low_precision_range,
    never_written,
    no_gradient,
    nonfinite_parameters,
    nonfinite_values,
    not_random,
    not_reproducible,
    output_scale,
    recurrent_memory,
    saturated_attention,
    saturated_gates,
    saturated_units,
    symmetric_units,
    uncalled,
    unjudged,
    unlike_equals,
    unregistered,
    vanishing_activations,
    vanishing_branch,
    vanishing_gradients,
    weight_mean,
    weight_too_large,
    weight_too_small,
    wrong_gain,
)
from initaudit.rules.base import Rule
from initaudit.rules.diagnosis import diagnose_with

# In causal order: what an earlier rule has found explains what a later one sees at the same layers.
RULES: tuple[Rule, ...] = (
    never_written.RULE,
    nonfinite_parameters.RULE,
    nonfinite_values.RULE,
    symmetric_units.RULE,
    dead_units.RULE,
    saturated_units.RULE,
    gate_bias.RULE,
    recurrent_memory.RULE,
    saturated_gates.RULE,
    weight_mean.RULE,
    bias_dominates.RULE,
    vanishing_activations.RULE,
    exploding_activations.RULE,
    vanishing_branch.RULE,
    saturated_attention.RULE,
    collapsed_tokens.RULE,
    indistinguishable_samples.RULE,
    vanishing_gradients.RULE,
    exploding_gradients.RULE,
    output_scale.RULE,
    loss_at_init.RULE,
    drawn_gains.RULE,
    unlike_equals.RULE,
    no_gradient.RULE,
    factor_disagrees.RULE,
    weight_too_small.RULE,
    weight_too_large.RULE,
    wrong_gain.RULE,
    fan_out_for_fan_in.RULE,
    low_precision_range.RULE,
    not_reproducible.RULE,
    identical_copies.RULE,
    not_random.RULE,
    unregistered.RULE,
    uncalled.RULE,
    unjudged.RULE,
)


def diagnose(trace: Trace, *, select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Finding, ...]:
    """What the rules find in ``trace``: root causes first, worst first.

    ``select`` and ``ignore`` hold codes, names, or beginnings of codes (``"IA1"``), also comma-separated. Of a trace
    without operations only the weights are judged, by the rules that need no run.
    Raises :class:`UsageError` for one that matches no rule.
    """
    wanted = matching(select) or set(RULES)
    applied = [rule for rule in RULES if rule in wanted - matching(ignore) and (trace.ops or not rule.needs_run)]
    return diagnose_with(applied, trace)


def matching(words: Sequence[str]) -> set[Rule]:
    """The rules that codes, names and beginnings of codes stand for."""
    found: set[Rule] = set()
    for word in (w.strip() for text in words for w in text.split(",")):
        if not word:
            continue
        rules = {r for r in RULES if r.name == word.lower() or r.code.startswith(word.upper())}
        if not rules:
            raise _unknown(word)
        found |= rules
    return found


def find_rule(word: str) -> Rule:
    """The rule of that code or name. Raises :class:`UsageError` when there is none."""
    for rule in RULES:
        if word.upper() == rule.code or word.lower() == rule.name:
            return rule
    raise _unknown(word)


def rule_page(rule: Rule) -> str:
    """The rule's page in Markdown: the docstring of its module under its code and name."""
    module = importlib.import_module(rule.check.__module__)
    summary, _, body = (module.__doc__ or "").partition("\n")
    limit = f"{rule.limit.value:.3g} {rule.limit.unit} ({rule.limit.source})"
    head = f"# {rule.code} {rule.name}\n\n{summary}\n\nSeverity: at worst {rule.severity.value}. Limit: {limit}.\n"
    return f"{head}{body.rstrip()}\n"


def _unknown(word: str) -> UsageError:
    close = difflib.get_close_matches(word.upper(), [r.code for r in RULES], 3, 0.7) + difflib.get_close_matches(
        word.lower(), [r.name for r in RULES], 3, 0.5
    )
    hint = f"did you mean {' or '.join(close)}?" if close else "see `initaudit rule` for all of them"
    return UsageError(f"unknown rule {word!r}: {hint}")

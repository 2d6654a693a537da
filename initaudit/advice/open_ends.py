"""Why something stays open after the best initialization that was found, and what would help."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from initaudit.records import Finding, Layer, Report, Role, Severity, Trace

GROWTH = "IA202"  # exploding-gradients
COMPARED = ("IA503",)  # rules that compare a parameter with others
DEEP = 20  # layers in a row, from which a function with an unstable fixed point drifts whatever the gain


def remarks(report: Report, changed: Collection[str] = ()) -> tuple[str, ...]:
    """One sentence for each finding above a note that remains, each said once; ``changed`` are what the plan set."""
    trace = report.trace
    if trace is None:
        return ()
    told = (_remark(f, trace, changed) for f in report.findings if f.severity is not Severity.NOTE and f.root_cause)
    return tuple(dict.fromkeys(told))


def _remark(finding: Finding, trace: Trace, changed: Collection[str]) -> str:
    place = finding.fqn or "the whole model"
    if finding.code in COMPARED and any(name.rpartition(".")[0] == finding.fqn for name in changed):
        return (
            f"{finding.code} {finding.name} at {place}: started so on purpose, for its input has not come through what "
            "the input of the others has"
        )
    return f"{finding.code} {finding.name} at {place}: {next(_reasons(finding, trace))}"


def grows_by_batch_norm(finding: Finding, trace: Trace) -> bool:
    """Whether it is the growth of gradients that batch normalization brings about, whatever the weights."""
    return finding.code == GROWTH and any(op.role is Role.NORM and op.over_batch for op in trace.ops)


def _reasons(finding: Finding, trace: Trace) -> Iterator[str]:
    """The first one that fits."""
    layers = [layer for layer in trace.layers if layer.fqn in (finding.fqn, *finding.affected)]
    if any(_is_computed(layer, trace) for layer in layers):
        yield "the weight is computed from other parameters (weight_norm or the like), which no plan is made for"
    if grows_by_batch_norm(finding, trace):
        yield (
            "batch normalization makes gradients grow at every layer, whatever the weights (Yang et al. 2019, "
            "arXiv:1902.08129): residual connections, fewer layers or LayerNorm would help"
        )
    if finding.code.startswith(("IA1", "IA2")):
        names = sorted({layer.nonlinearity.name for layer in layers if layer.nonlinearity})
        if any(layer.nonlinearity and _runs_away(layer) for layer in layers) and len(layers) >= DEEP:
            yield (
                f"in {len(layers)} layers of {' and '.join(names)} without normalization no gain keeps the signal, for "
                "its fixed point is unstable: a normalization or residual connections would help"
            )
        if names:
            yield (
                f"no initialization that was tried keeps the signal through {len(layers)} layers with "
                f"{' and '.join(names)}: residual connections, a normalization or another activation would help"
            )
    yield f"initialization alone does not mend it: {finding.message}"


def _runs_away(layer: Layer) -> bool:
    """Whether the activation is one whose length map has no stable fixed point to return to."""
    after = layer.nonlinearity
    return after is not None and not after.saturating and abs(after.gain / after.backward_gain - 1) > 1e-3


def _is_computed(layer: Layer, trace: Trace) -> bool:
    stored = next((p for p in trace.parameters if p.fqn == layer.weight.fqn), None)
    return stored is not None and stored.rms != layer.weight.rms

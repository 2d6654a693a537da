"""Why something stays open after the best initialization that was found, and what would help."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter

from initaudit.advice.depth import GRADIENT_BAND, RMS_BAND, gains_for
from initaudit.advice.surroundings import Surroundings
from initaudit.records import Finding, Layer, Report, Role, Severity, Trace

GROWTH = "IA202"  # exploding-gradients
COMPARED = ("IA503",)  # rules that compare a parameter with others


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
    around = Surroundings(trace)
    layers = [layer for layer in trace.layers if layer.fqn in (finding.fqn, *finding.affected)]
    if any(around.is_out_of_reach(layer) for layer in layers):
        yield "the weight is computed from other parameters by a parametrization that no plan is made for"
    if any(layer.weight.fqn in around.spectral for layer in layers):
        yield (
            "spectral normalization divides the weight by its largest singular value, whatever is drawn, and leaves "
            "no gain to choose: a factor behind it that is learned, a normalization or residual connections would help"
        )
    if grows_by_batch_norm(finding, trace):
        yield (
            "batch normalization makes gradients grow at every layer, whatever the weights (Yang et al. 2019, "
            "arXiv:1902.08129): residual connections, fewer layers or LayerNorm would help"
        )
    if finding.code.startswith(("IA1", "IA2")):
        yield from _too_deep(layers, around)
        if names := sorted({layer.nonlinearity.name for layer in layers if layer.nonlinearity}):
            yield (
                f"no initialization that was tried keeps the signal through {len(layers)} layers with "
                f"{' and '.join(names)}: residual connections, a normalization or another activation would help"
            )
    if unplanned := _unplanned(trace):
        yield (
            f"no plan is made for {_listing(unplanned)}, which an operation reads that is not known to be a layer, and "
            f"so this stays: {finding.message}"
        )
    yield f"initialization alone does not mend it: {finding.message}"


def _too_deep(layers: Sequence[Layer], around: Surroundings) -> Iterator[str]:
    """What theory says of the deepest stack, where the best of all gains is not good enough for it."""
    depth, deepest = max(((around.depths.get(layer.fqn, 1), layer) for layer in layers), key=itemgetter(0))
    gains = gains_for(deepest.nonlinearity, depth) if deepest.nonlinearity else None
    if gains is not None and (gains.spread > RMS_BAND or gains.growth > GRADIENT_BAND):
        name = deepest.nonlinearity.name if deepest.nonlinearity else ""
        yield (
            f"of all gains the best still lets the rms leave 1 by a factor of {gains.spread:.2g} and the gradient grow "
            f"{gains.growth:.2g} times in {depth} layers of {name} in a row: a normalization, residual connections or "
            "fewer layers would help"
        )


def _unplanned(trace: Trace) -> list[str]:
    """Matrices that get a gradient and belong to no layer that was recorded."""
    known = {name for layer in trace.layers for name in (layer.weight.fqn, *layer.weight.aliases)}
    return [p.fqn for p in trace.parameters if len(p.shape) > 1 and p.grad_rms and p.fqn not in known]


def _listing(names: Sequence[str], limit: int = 3) -> str:
    """``"a, b, c and 3 more"``."""
    more = len(names) - limit
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:limit])} and {more} more"

"""Values that float16 or bfloat16 cannot hold: beyond their range, flushed to zero, or lost in an addition.

## What it measures

For a model that is audited in float32, what half precision would do to the values that were seen:

* *float16 overflows* where a value is beyond 65504. Squares inside a normalization that is written out by hand get
  there at an input of 256, products of queries and keys before they are scaled as well. Also `masked_fill` with a
  number below -65504, which float16 refuses.
* *The signal underflows in float16* where more than half of a Gaussian of its rms rounds to zero, on the path that
  dominates the output.
* *No loss scale fits*: with the largest gradient of a layer just below 65504, more than half of the smallest one rounds
  to zero.
* *The residual stream has outgrown its branches in bfloat16*: branches that the stream would have felt at its start
  change fewer than half of the values that they are now added to.

For a model that is audited in float16 or bfloat16 itself, the same is told of what was measured in that run. Infinities
that spoil a layer there are the matter of `nonfinite-values`, what has become zero altogether that of `no-gradient`,
`vanishing-activations` and `vanishing-gradients`.

## Why it matters

float16 has 5 bits of exponent: it ends at 65504, is imprecise below 6.1e-5 and is zero below 3e-8. An infinity turns
the loss into NaN; what is flushed to zero trains nothing. bfloat16 has the range of float32 but 8 significant bits, two
to three decimal digits: `256 + 0.5` is 256.

## Example that fires

```python
import torch
from torch import nn


class RMSNorm(nn.Module):
    def forward(self, x):
        return x / x.square().mean(-1, keepdim=True).sqrt()  # the square of 256 is beyond float16


model = nn.Sequential(nn.Linear(64, 64), RMSNorm(), nn.Linear(64, 4))
nn.init.normal_(model[0].weight, std=20.0)
inputs = torch.randn(32, 64)
```

## Remedy

Bring the weights to the scale that the variance rule asks for, which keeps every value near 1. Compute squares, sums
and exponentials in float32 (`x.float()`), as `F.layer_norm` and `F.rms_norm` do inside, and scale queries before the
product and not after it. Fill masks with `torch.finfo(x.dtype).min`. Keep the residual stream in float32, as
`torch.autocast` does where the embeddings are float32.

## Limit and where it comes from

No value beyond 65504, and no more than half of the values lost to rounding. A Gaussian of rms `r` loses
`erf(2**-25 / (r sqrt(2)))` of its values in float16, half of them at `r` = 4.4e-8; that leaves a range of 1.5e12
between the largest gradient and the rms of the smallest. The quotient of branch and stream follows a Cauchy
distribution, so half of the additions change nothing at `rms(branch) / rms(stream)` = 1/360 in bfloat16 and 1/2900 in
float16. The growth of the stream is held to be the reason where at its start less than a quarter would have been lost.

Where a tensor was sampled, its extreme is extended to all of its elements as for a Gaussian. Gradients are compared
with each other only: their absolute size follows the loss, its reduction and the batch, which the audit's cotangent of
unit variance does not know, and a loss scale removes any common factor. The layers of queries and keys are left out of
the smallest, since they get next to no gradient while attention is uniform.

A model audited in float32 gets no more than a note. It speaks of `model.half()` and `model.bfloat16()`;
`torch.autocast` runs some operations in float32, and where the operation is one of these the note says so. Not judged:
what is computed behind a cast in the same module (`x.float()`, `x.to(...)`), what fused kernels compute inside, masks
that are added, an epsilon that rounds to zero, branches that start near zero on purpose, and gradients of tokens and
norms: one that starts at zero in front of a normalization gets a gradient of up to `1 / sqrt(eps)`.

## References

Micikevicius et al. 2018, Mixed Precision Training (arXiv:1710.03740), section 3; Kalamkar et al. 2019, A Study of
BFLOAT16 for Deep Learning Training (arXiv:1905.12322); IEEE 754-2019, section 3.6; the operations that autocast to
float32: torch's page on automatic mixed precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from initaudit.records import Layer, Op, Role, Severity, Trace
from initaudit.rules import nonfinite_values
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.low_precision_overflow import absorbed, extremes, overflows, place, places
from initaudit.rules.paths import listing, multiplies
from initaudit.rules.wording import figure
from initaudit.theory.formats import BFLOAT16, FLOAT16, FORMATS, Format, flushed_share, lost_addition_share

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow

LIMIT = 0.5
_AUTOCAST_TO_FLOAT32 = frozenset(
    "pow __pow__ __rpow__ square exp expm1 log log1p log2 log10 reciprocal rsqrt softplus sum prod cumsum cumprod norm "
    "layer_norm group_norm normalize softmax log_softmax softmin cdist sinh cosh tan __rdiv__ __rtruediv__".split()
)


def check(flow: Flow) -> Iterator[Observation]:
    """Yield at most one observation for each of the four things that half precision does to values."""
    own = FORMATS.get(flow.trace.environment.dtype)
    if own is None:
        yield from _overflow(flow.trace)
    elif own is FLOAT16 and not any(nonfinite_values.check(flow)):
        yield from _absorbed_overflow(flow.trace)
    if own is not BFLOAT16:
        yield from _signal_underflow(flow, measured=own is not None)
        yield from _gradient_range(flow, measured=own is not None)
    yield from _lost_additions(flow, own or BFLOAT16, measured=own is not None)


def _severity(measured: bool) -> Severity:
    return Severity.WARNING if measured else Severity.NOTE


def _overflow(trace: Trace) -> Iterator[Observation]:
    """Where values beyond float16 begin."""
    begun = overflows(trace)
    if not begun:
        return
    op, extreme = begun[0]
    names = places(trace, (o for o, _ in begun))
    if op.name == "masked_fill":
        what = f"`masked_fill` with {figure(-extreme)} fails in float16, which ends at -65504: fill with "
        what += "torch.finfo(x.dtype).min"
    else:
        what = f"`{op.name}` overflows in float16: it reaches {figure(extreme)}, and float16 ends at 65504"
        what += " (torch.autocast runs it in float32)" if op.name in _AUTOCAST_TO_FLOAT32 else ""
    others = f"; likewise in {listing(names[1:])}" if names[1:] else ""
    yield Observation(names[0], what + others, limit=0.0, severity=Severity.NOTE, affected=names[1:])


def _absorbed_overflow(trace: Trace) -> Iterator[Observation]:
    """Where a run in float16 became infinite without spoiling a layer, as ``x / inf`` is 0."""
    op = next(iter(absorbed(trace)), None)
    if op is not None and op.stats is not None:
        share = op.stats.nonfinite / op.stats.count
        what = (
            f"`{op.name}` overflows in float16: {share:.2%} of its values are infinite, and what divides by them is 0"
        )
        yield Observation(place(trace, op), what, share, limit=0.0)


def _signal_underflow(flow: Flow, measured: bool) -> Iterator[Observation]:
    """The first place on the way to the output where the signal is too small for float16."""
    steps = [s.op for way in flow.ways for segment in way for s in segment.steps if s.op.role is not Role.INPUT]
    lost = [op for op in steps if op.stats and op.stats.rms > 0 and flushed_share(op.stats.rms, FLOAT16) > LIMIT]
    if not lost:
        return
    first = min(lost, key=lambda op: op.id)
    assert first.stats is not None
    share = flushed_share(first.stats.rms, FLOAT16)
    yield Observation(
        place(flow.trace, first),
        f"the signal {'is' if measured else 'would be'} lost in float16: at rms {figure(first.stats.rms)}, {share:.0%} "
        "of its values round to zero",
        share,
        severity=_severity(measured),
        affected=tuple(dict.fromkeys(op.layer for op in lost if op.layer and op.layer != first.layer)),
    )


def _gradient_range(flow: Flow, measured: bool) -> Iterator[Observation]:
    """Layers whose weight gradient is lost: at the largest loss scale that fits, or in the very run if ``measured``."""
    scoring = _scoring(flow.trace)
    judged = [x for x in flow.trace.layers if multiplies(flow.trace, x) and x.fqn not in scoring]
    known = [(layer, rms) for layer in judged if (rms := layer.weight.grad_rms) and math.isfinite(rms)]
    largest, where = max(_gradient_extremes(flow, known), default=(0.0, ""))
    if not 0 < largest < math.inf:
        return
    room = FLOAT16.largest / largest
    scale = 1.0 if measured else room
    lost = sorted((rms, layer.fqn) for layer, rms in known if flushed_share(rms * scale, FLOAT16) > LIMIT)
    if not lost:
        return
    rms, fqn = lost[0]
    share = flushed_share(rms * scale, FLOAT16)
    fits = flushed_share(rms * room, FLOAT16) <= LIMIT
    needed = 2.0 ** math.ceil(math.log2(FLOAT16.smallest_normal / rms))
    span = f"no loss scale fits float16: gradients span a factor of {figure(largest / rms)} from {fqn} to {where}; "
    span += f"with the largest at 65504, {share:.0%} of the smallest round to zero"
    small = f"the gradient has rms {figure(rms)}: {share:.0%} of it rounds to zero in float16, and a loss scale of "
    small += f"{min(needed, 2.0 ** math.floor(math.log2(room))):g} would keep it"
    yield Observation(
        fqn,
        small if fits else span,
        share,
        severity=_severity(measured and not fits),
        affected=tuple(dict.fromkeys(name for _, name in lost if name != fqn)),
    )


def _gradient_extremes(flow: Flow, known: list[tuple[Layer, float]]) -> Iterator[tuple[float, str]]:
    """The largest value that is expected in the gradients of layers' outputs and weights, and where.

    Other values are left out: behind a token that starts at zero a normalization multiplies the gradient by the inverse
    of its epsilon, and no weight of a layer gets that.
    """
    for layer, _, op in flow.layer_calls():
        if op.gradient is not None:
            low, high = extremes(op.gradient)
            yield (0.0 if math.isnan(low + high) else max(-low, high)), layer.fqn
    for layer, rms in known:
        yield rms * math.sqrt(2 * math.log(max(2, math.prod(layer.weight.shape)))), layer.fqn


def _scoring(trace: Trace) -> set[str]:
    """The layers that make queries or keys: as long as attention is uniform they get next to no gradient."""
    scores = [i for attention in trace.attentions for i in (attention.query, attention.key)]
    values = [attention.value for attention in trace.attentions]
    return _made_by(trace, scores) - _made_by(trace, values)


def _made_by(trace: Trace, ends: Iterable[int | None]) -> set[str]:
    """The nearest layers upstream of the operations ``ends``."""
    found, todo, seen = set(), [i for i in ends if i is not None], set[int]()
    while todo:
        op = trace.ops[todo.pop()]
        if op.id not in seen:
            seen.add(op.id)
            if op.layer:
                found.add(op.layer)
            else:
                todo.extend(op.inputs)
    return found


def _lost_additions(flow: Flow, precision: Format, measured: bool) -> Iterator[Observation]:
    """Sums at which a stream has grown so much that what a branch adds falls below its last digit."""
    trace = flow.trace
    lost = list(_outgrown(flow, precision))
    if not lost:
        return
    op, share, growth = lost[0]
    here = place(trace, op)
    others = places(trace, (o for o, *_ in lost))
    sums = f", and likewise at {len(lost) - 1} more sums" if len(lost) > 1 else ""
    yield Observation(
        here,
        f"the residual stream has grown {figure(growth)} times since it began: in {precision.name} {share:.0%} of the "
        f"additions of a branch {'change' if measured else 'would change'} nothing{sums}",
        share,
        severity=_severity(measured),
        affected=tuple(p for p in others if p and p != here),
    )


def _outgrown(flow: Flow, precision: Format) -> Iterator[tuple[Op, float, float]]:
    """Each such sum, the share of additions that change nothing, and the growth of the stream since it began."""
    began: dict[int, float] = {}  # rms with which the stream through an operation began
    for op in flow.trace.ops:
        operands = [i for i in op.inputs if flow.trace.ops[i].moving]
        if op.role in (Role.VIEW, Role.SCALE) and operands and operands[0] in began:
            began[op.id] = began[operands[0]]
        if op.role is not Role.JOIN or len(operands) != 2:
            continue
        stream, branch = operands if _leads_to(flow.trace, operands[0], operands[1]) else reversed(operands)
        if not _leads_to(flow.trace, stream, branch):
            continue
        held, added = (flow.measured(flow.trace.ops[i]).stats for i in (stream, branch))
        if held is None or added is None or not (held.rms > 0 and added.rms > 0):
            continue
        begun, start = stream in began, began.get(stream, held.rms)
        began[op.id] = start
        small, large = sorted((held.rms, added.rms))
        share = lost_addition_share(small / large, precision) if large < math.inf else 0.0
        if begun and share > LIMIT and lost_addition_share(small / start, precision) <= LIMIT / 2:
            yield op, share, large / start


def _leads_to(trace: Trace, start: int, end: int) -> bool:
    """Whether the value of op ``end`` is computed from that of ``start``, as a residual branch is from its stream."""
    todo, seen = [end], set[int]()
    while todo:
        here = todo.pop()
        if here == start:
            return True
        if here > start and here not in seen:
            seen.add(here)
            todo.extend(trace.ops[here].inputs)
    return False


RULE = Rule(
    code="IA109",
    name="low-precision-range",
    severity=Severity.WARNING,
    limit=Limit(LIMIT, "share of values lost", "range and digits of the formats: IEEE 754-2019, Kalamkar 2019"),
    check=check,
)

"""Sister layers that start with the same random weights.

## What it measures
Matrices and kernels that look drawn, are trained, and hold exactly the values of one with the same path but for its
numbers (`layers.1.linear1.weight` and `layers.0.linear1.weight`), in memory of their own.

## Why it matters
Layers that start as one function have less to work with. Copies side by side that also get the same gradient stay
copies for ever: an error. Copies one behind the other get different gradients and do part, but it costs training. Mean
and standard deviation of the test accuracy of transformer encoders of width 48 after 12 epochs on scikit-learn's digits
(16 patches, AdamW at 1e-3, 6 seeds), with each layer drawn by itself and with copies of one:

| encoder | drawn one by one | copies |
|---|---|---|
| post-norm, 4 layers | 96.0 ± 0.5% | 95.3 ± 1.3% |
| post-norm, 8 layers | 97.6 ± 0.5% | 94.8 ± 1.4% |
| pre-norm, 4 layers | 97.4 ± 0.5% | 96.2 ± 1.2% |
| pre-norm, 8 layers | 98.0 ± 0.5% | 95.4 ± 1.2% |

## Example that fires

```python
import torch
from torch import nn

layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True)
model = nn.TransformerEncoder(layer, num_layers=4)  # copies the layer that it is given
inputs = torch.randn(8, 16, 64)
```

## Remedy
`nn.TransformerEncoder` and `nn.TransformerDecoder` deepcopy the one layer they are given, and so does
`[copy.deepcopy(layer) for _ in range(n)]`. Draw every layer anew after it is built, as `nn.Transformer` does:

```python
for parameter in model.parameters():
    if parameter.dim() > 1:
        nn.init.xavier_uniform_(parameter)
```

or build each layer by a call of its own. If it is `torch.manual_seed` in the constructor of the block, take it out.

## Limit and where it comes from
Equality is exact, and the values must look drawn: constants, tables (half of the first sixteen values are repeated)
and structured weights are alike by nature. Tied weights share memory and are no copies. Not reported: copies without a
gradient (target networks, averages of weights, teachers), copies under another name (two towers that start alike on
purpose). Gradients are the same when their rms agrees to 1e-5.

## References
pytorch/pytorch#72253 and #86274 (all layers of `nn.TransformerEncoder` start with the same parameters).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from initaudit.records import Parameter, Severity
from initaudit.rules.base import Limit, Observation, Rule
from initaudit.rules.not_random import looks_drawn
from initaudit.rules.paths import listing, owners

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow

_SAME_GRADIENT = 1e-5  # relative: float32 rounding in the same operations on the same values
Pair = tuple[Parameter, Parameter]  # the copy and what it is a copy of


def check(flow: Flow) -> Iterator[Observation]:
    """Yield one observation for each stack, at the first layer that is a copy, with the others as affected."""
    known = {p.fqn: p for p in flow.trace.parameters}
    stacks: dict[str, list[Pair]] = {}
    for copy in flow.trace.parameters:
        source = known.get(copy.copy_of or "")
        if source and _are_sisters(copy, source) and _learns(copy) and _learns(source) and looks_drawn(copy):
            stacks.setdefault(_block(source, copy), []).append((copy, source))
    for block, pairs in stacks.items():
        first, *rest = owners(flow.trace, [copy for copy, _ in pairs])
        blocks = dict.fromkeys(_block(copy, source) for copy, source in pairs)
        stays = all(_same_gradient(*pair) for pair in pairs)
        harm = "they get the same gradient and stay copies" if stays else "the layers start as one function"
        hold = "hold" if len(blocks) > 1 else "holds"
        yield Observation(
            fqn=first,
            message=f"{listing(blocks)} {hold} the same random weights as {block}: {harm}. nn.TransformerEncoder, "
            "nn.TransformerDecoder and copy.deepcopy copy the one layer they are given: draw the weights of each anew",
            observed=float(len(blocks)),
            severity=Severity.ERROR if stays else Severity.WARNING,
            affected=tuple(rest),
        )


def _are_sisters(a: Parameter, b: Parameter) -> bool:
    """Whether the paths differ, and in numbers only."""
    parts = list(zip(a.fqn.split("."), b.fqn.split("."), strict=False))
    same_depth = a.fqn.count(".") == b.fqn.count(".")
    return same_depth and all(x == y or (x.isdigit() and y.isdigit()) for x, y in parts)


def _learns(parameter: Parameter) -> bool:
    return parameter.requires_grad and bool(parameter.grad_rms)


def _block(parameter: Parameter, other: Parameter) -> str:
    """The path of ``parameter`` down to the first number in which it differs from ``other``."""
    own, others = parameter.fqn.split("."), other.fqn.split(".")
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(own, others, strict=False)))
    return ".".join(own[: shared + 1])


def _same_gradient(a: Parameter, b: Parameter) -> bool:
    return bool(a.grad_rms and b.grad_rms) and abs((a.grad_rms or 0) / (b.grad_rms or 1) - 1) < _SAME_GRADIENT


RULE = Rule(
    code="IA505",
    name="identical-copies",
    severity=Severity.ERROR,
    limit=Limit(0.0, unit="copies", source="layers drawn one by one are never equal"),
    check=check,
    stands_alone=True,
)

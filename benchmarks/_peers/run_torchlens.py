"""TorchLens: the rows of its audit of gradient flow that are not ok, in its own order."""

from collections.abc import Iterator

import torchlens
from serving import Complaint, serve
from torch import Tensor, nn
from torch.nn import functional as F
from torchlens.debug._gradients import gradient_flow_audit_rows  # the public function needs pandas


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    capture = torchlens.options.CaptureOptions(backward_ready=True, save_grads="all")
    trace = torchlens.trace(model, x, capture=capture)
    trace.log_backward(F.cross_entropy(trace[trace.output_layers[0]].out, y))
    rows, _ = gradient_flow_audit_rows(trace, grad_scale=1.0)
    for row in rows:
        if row["verdict"] in ("vanishing", "exploding", "dead", "nonfinite"):
            layer = (row["module"] or "").partition(":")[0]
            yield Complaint(row["verdict"], layer, f"{row['op']}: {row['verdict']} gradient, norm {row['grad_norm']}")


serve(look)

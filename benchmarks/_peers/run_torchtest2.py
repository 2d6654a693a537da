"""torchtest2: every check that warns or fails, at its defaults: 200 steps of overfitting one batch included."""

from collections.abc import Iterator

import torchtest2
from serving import Complaint, owner, serve
from torch import Tensor, nn
from torch.nn import functional as F


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    names = dict(model.named_parameters())
    for result in torchtest2.check_model(model, x, y, loss_fn=F.cross_entropy).results:
        if result.status.name in ("WARN", "FAIL"):
            named = next((word for word in _words(result.details, result.message) if word in names), "")
            yield Complaint(f"{result.name} {result.status.name}", owner(named), result.message)


def _words(details: object, message: str) -> list[str]:
    return "".join(c if c.isalnum() or c in "._" else " " for c in f"{details} {message}").split()


serve(look)

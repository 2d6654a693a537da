"""torchdiag: dead units above its own limits of 20% and 50%, and gradients that it calls vanishing or exploding."""

from collections.abc import Iterator

import torchdiag
from serving import Complaint, owner, serve
from torch import Tensor, nn
from torch.nn import functional as F


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    for layer, found in (torchdiag.check_dead_neurons(model, x) or {}).items():
        if found["dead_pct"] > 20:
            level = "CRITICAL" if found["dead_pct"] > 50 else "WARNING"
            yield Complaint(f"dead {level}", layer, "poor weight init, learning rate, or input distribution")
    F.cross_entropy(model(x), y).backward()
    for name, found in (torchdiag.check_gradients(model) or {}).items():
        if found["status"] != "OK":
            yield Complaint(f"gradient {found['status']}", owner(name), f"{name}: gradient {found['status']}")


serve(look)

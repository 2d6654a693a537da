"""A network with a hand-written GELU, initialized with that function's own gain: the audit passes.

`nn.init.calculate_gain` knows seven functions, and neither GELU nor anything written by hand is among them.
`initaudit.gain` computes the gain of any elementwise function by quadrature: 1/sqrt(E[phi(z)^2]) with z ~ N(0, 1),
here 1.5336. The audit sees the five operations as one activation and expects the same.

    initaudit examples/custom_gelu.py
    initaudit gain examples.custom_gelu:gelu

`initaudit_inputs` names the input of each model of the file.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

import initaudit

FEATURES, WIDTH, HIDDEN_LAYERS = 64, 256, 6


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class GELUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [FEATURES] + [WIDTH] * HIDDEN_LAYERS
        self.hidden = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths))
        self.head = nn.Linear(WIDTH, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for index, layer in enumerate(self.hidden):
            # The first layer reads the data, which has not been through a GELU: its gain is one.
            gain = 1.0 if index == 0 else initaudit.gain(gelu)
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.head.weight, std=initaudit.gain(gelu) / math.sqrt(WIDTH))
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = gelu(layer(x))
        return self.head(x)


initaudit_inputs = {"GELUNet": torch.randn(32, FEATURES)}


if __name__ == "__main__":
    import rich

    rich.print(initaudit.audit(GELUNet, initaudit_inputs["GELUNet"]))

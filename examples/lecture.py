"""The tanh network of Glorot and Bengio (2010), with the standard initialization and with theirs: both pass.

Five hidden layers of a thousand tanh units. `build_standard` draws from U(-1/sqrt(n), 1/sqrt(n)), the custom until 2010
and torch's default to this day; its activations shrink from layer to layer, from a standard deviation of 0.46 behind
the first to 0.05 behind the last. `build_xavier` draws from U(-sqrt(6/(n_in + n_out)), sqrt(6/(n_in + n_out)));
its activations hold, from 0.63 to 0.32. Five layers are few enough to train either way, so the standard network gets
notes and no error; in `deep_relu_mlp.py`, four times as deep, the same fault is fatal.

    initaudit examples/lecture.py                        both, with a histogram beside each layer
    initaudit examples/lecture.py --figure lecture.svg   figures 6 and 7 of the paper, side by side
    initaudit examples/lecture.py::build_xavier          one of them

docs/lecture.md tells why.
"""

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

FEATURES, WIDTH, HIDDEN_LAYERS, CLASSES = 1000, 1000, 5, 10


def tanh_network(initialize_: Callable[[Tensor], object]) -> nn.Sequential:
    widths = [FEATURES] + [WIDTH] * HIDDEN_LAYERS
    network = nn.Sequential()
    for number, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        network.add_module(f"hidden{number}", nn.Linear(fan_in, fan_out))
        network.add_module(f"tanh{number}", nn.Tanh())
    network.add_module("head", nn.Linear(WIDTH, CLASSES))
    for layer in network:
        if isinstance(layer, nn.Linear):
            initialize_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def standard_(weight: Tensor) -> Tensor:
    bound = 1 / math.sqrt(weight.shape[1])
    return nn.init.uniform_(weight, -bound, bound)


def build_standard() -> nn.Module:
    return tanh_network(standard_)


def build_xavier() -> nn.Module:
    return tanh_network(nn.init.xavier_uniform_)


if __name__ == "__main__":
    import rich

    import initaudit

    for build in (build_standard, build_xavier):
        rich.print(initaudit.audit(build))

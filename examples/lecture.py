"""The tanh network of Glorot and Bengio (2010), with the standard initialization and with theirs: both pass.

Five hidden layers of a thousand tanh units. `build_standard` draws from U(-1/sqrt(n), 1/sqrt(n)), which was the
custom until 2010 and is torch's default to this day; its activations shrink layer by layer, from a standard
deviation of 0.46 to 0.05. `build_xavier` draws from U(-sqrt(6/(n_in + n_out)), sqrt(6/(n_in + n_out))); its
activations hold, from 0.63 to 0.32. Five layers are few enough to train either way, so the standard network gets
warnings and not an error; at thirty layers the same fault is fatal (`initaudit examples/deep_relu_mlp.py`).

    initaudit examples/lecture.py              both, with the histograms of each layer
    initaudit examples/lecture.py::build_xavier
"""

import math
from itertools import pairwise

from torch import nn

FEATURES, WIDTH, HIDDEN_LAYERS, CLASSES = 1000, 1000, 5, 10


def tanh_network() -> nn.Sequential:
    widths = [FEATURES] + [WIDTH] * HIDDEN_LAYERS
    network = nn.Sequential()
    for fan_in, fan_out in pairwise(widths):
        network.append(nn.Linear(fan_in, fan_out))
        network.append(nn.Tanh())
    return network.append(nn.Linear(WIDTH, CLASSES))


def build_standard() -> nn.Module:
    network = tanh_network()
    for layer in network:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
    return network


def build_xavier() -> nn.Module:
    network = tanh_network()
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


if __name__ == "__main__":
    import rich

    import initaudit

    for build in (build_standard, build_xavier):
        rich.print(initaudit.audit(build))

"""What the networks of fix.py are initialized by: the code that fix prints, and the methods that it is compared with.

All but fix start from torch's default, whatever was wrong before, so that what a method does not set is in order.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import torch
from _autoinit import autoinit
from _networks import Network, Weights
from _training import Data
from torch import Tensor, nn
from torch.nn import init

from initaudit.curing import cure, run

DRAWS = 1  # the network is one draw
Method = Callable[[Network, Data], nn.Module]


def built(network: Network, data: Data) -> nn.Module:
    return network.build(data.features.shape[1], data.classes)


def code_of_fix(network: Network, data: Data) -> str:
    """The code that fix prints for the network; empty where it prints none."""
    return cure(lambda: built(network, data), data.batch, draws=DRAWS).code


def digest(network: Network, code: str) -> str:
    """Tells whether ``code``, comments aside, is still what was measured; the network tells the seed as well.

    Empty where ``code`` is.
    """
    return code and hashlib.sha256(f"{network}\n{ast.unparse(ast.parse(code))}".encode()).hexdigest()[:12]


def after(code: str, network: Network, data: Data) -> nn.Module:
    """The network after ``code``, which may be empty."""
    model = built(network, data)
    if code:
        run(code, model)
    return model


def base(network: Network) -> Network:
    """What the others start from: networks that differ in their scheme alone are one and the same to them."""
    return replace(network, scheme="default")


def torch_default(network: Network, data: Data) -> nn.Module:
    return built(base(network), data)


def he(network: Network, data: Data) -> nn.Module:
    """He's rule with ``calculate_gain``, ReLU's gain where torch does not know the activation; biases zero."""
    model = torch_default(network, data)
    known = network.activation if network.activation in ("relu", "tanh", "selu", "leaky_relu", "sigmoid") else "relu"
    gain = init.calculate_gain(known)
    with torch.no_grad():
        Weights(model, network.activation).all(lambda w: init.normal_(w, std=gain / w[0].numel() ** 0.5))
    return model


@torch.no_grad()
def lsuv(network: Network, data: Data, tolerance: float = 0.1, tries: int = 10) -> nn.Module:
    """Orthogonal weights, then outputs of unit variance on a batch, layer by layer in the order of the forward pass.

    Mishkin & Matas 2016 (arXiv:1511.06422), written down from the paper.
    """
    model = torch_default(network, data)
    weights = Weights(model, network.activation)
    weights.all(init.orthogonal_)
    for layer in weights.layers:
        for _ in range(tries):
            std = _output_of(model, layer, data.batch).std()
            if not std > 0 or abs(std - 1) < tolerance:
                break
            layer.weight /= std
    return model


def _output_of(model: nn.Module, layer: nn.Module, batch: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        model(batch)
    finally:
        hook.remove()
    return torch.cat([output.flatten() for output in outputs])


def lsuv_package(network: Network, data: Data) -> nn.Module:
    """The package of LSUV's first author, version 0.3.0: layers in the order in which the model names them."""
    from lsuv import lsuv_with_singlebatch

    model: nn.Module = lsuv_with_singlebatch(torch_default(network, data), data.batch, verbose=False)
    return model


def auto_init(network: Network, data: Data) -> nn.Module:
    model = torch_default(network, data)
    autoinit(model)
    return model


PACKAGE = "LSUV, the package"
OTHERS: dict[str, Method] = {
    "torch default": torch_default,
    "He with calculate_gain": he,
    "LSUV, from its paper": lsuv,
    PACKAGE: lsuv_package,
    "AutoInit": auto_init,
}


def available() -> dict[str, Method]:
    """The others that can be run here: the package needs to be installed."""
    return {name: method for name, method in OTHERS.items() if name != PACKAGE or find_spec("lsuv")}

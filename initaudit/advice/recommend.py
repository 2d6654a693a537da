"""Which initializer a layer should have, as a line of code and the std that it gives.

Every choice follows from the variance rule for a layer ``z = W x + b`` with independent zero-mean weights,

    ``Var[z] = fan_in * Var[W] * E[x^2] + Var[b]``

(He et al. 2015, "Delving Deep into Rectifiers", eq. 7; Glorot & Bengio 2010, "Understanding the difficulty of
training deep feedforward neural networks", eq. 5 for the linear case). With ``Var[W] = gain^2 / fan_in`` and the
gain ``1/sqrt(E[phi(n)^2])``, n ~ N(0, 1), of the activation phi that follows, ``E[phi(z)^2]`` equals ``E[x^2]``
for the activations that scale (ReLU and its leaky kin), and tends to 1 for those that saturate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from initaudit.records import Activation, Advice, Layer, Parameter
from initaudit.theory.variance import std_for, xavier_std

SAME_GAIN = 5e-3  # gains closer than this are one: torch's own names may be used
BALANCED = 1.5  # largest ratio of fans at which Glorot's mean of both is close enough to fan_in


@dataclass(frozen=True, slots=True)
class Call:
    """One ``nn.init`` call: its name, its arguments after the tensor, and the std of what it draws."""

    scheme: str
    arguments: str
    std: float


def advise(layer: Layer, *, gain: float | None = None) -> Advice:
    """Return the initializer that keeps the signal's scale through ``layer`` and the activation after it.

    ``gain`` replaces that of the activation which really follows (1 where none does). The result's ``code`` is one
    literal call on a model named ``m``; ``std`` is the standard deviation it gives; ``why`` says it in the terms of
    ``Var[z] = fan_in * Var[W] * E[x^2] + Var[b]``, with the std that was found beside it. He's initialization is
    used for ReLU and its kin, LeCun's (gain 1) for SELU and where no activation follows, Glorot's for activations
    that saturate between layers of like width, and a plain std wherever ``torch.nn.init`` would read another fan
    off the shape than the layer has, or has no name for the gain. The law (normal, uniform, orthogonal) stays that
    of the weight as it was found, but for torch's uniform default, which nobody chose: normal takes its place.
    """
    if is_embedding(layer):
        return _embedding(layer, 1.0 if gain is None else gain)
    activation = layer.nonlinearity
    if gain is None:
        gain = activation.gain if activation else 1.0
    if not layer.fan_in > 0:
        return Advice("zeros_", None, 0.0, f"nn.init.zeros_({layer.weight_access})", "The layer has no inputs.")
    call = call_for(layer, activation, gain)
    arguments = ", ".join(filter(None, (layer.weight_access, call.arguments)))
    return Advice(
        scheme=call.scheme,
        gain=gain,
        std=call.std,
        code=f"nn.init.{call.scheme}({arguments})",
        why=_why(layer, activation, gain, call),
    )


def call_for(layer: Layer, activation: Activation | None, gain: float, law: str | None = None) -> Call:
    """The ``nn.init`` call that gives the layer's weight ``gain``, with the name that torch has for it.

    ``law`` is ``"normal"``, ``"uniform"`` or ``"orthogonal"``; by default the one the author chose.
    """
    std = std_for(gain, layer.fan_in)
    law = law or chosen_law(layer.weight)
    if law == "orthogonal" and layer.repeats == 1 and len(layer.weight.shape) >= 2:
        # orthogonal_ gives Var[W] = gain^2 / max(rows, columns), which is fan_in only where a layer does not widen.
        rows, columns = layer.weight.shape[0], math.prod(layer.weight.shape[1:])
        factor = std * math.sqrt(max(rows, columns))
        return Call("orthogonal_", "" if math.isclose(factor, 1.0, rel_tol=1e-3) else f"gain={factor:.4g}", std)
    if law == "orthogonal":
        law = "normal"
    if torch_reads_fan_in(layer):
        if name := _torch_name(gain, activation):
            return Call(f"kaiming_{law}_", name, std)
        if activation and activation.saturating and _torch_reads_fan_out(layer) and _balanced(layer):
            glorot = xavier_std(gain, layer.fan_in, layer.fan_out)
            return Call(f"xavier_{law}_", f"gain={gain:.4g}", glorot)
    return _plain(law, std)


def chosen_law(parameter: Parameter) -> str:
    """The law the author chose: ``"normal"``, ``"uniform"`` or ``"orthogonal"``; torch's default is nobody's choice."""
    init = parameter.init
    if init.startswith("orthogonal"):
        return "orthogonal"
    default = init.startswith("kaiming_uniform(a=sqrt(5)") or init == "torch recurrent default"
    return "uniform" if "uniform" in init and not default else "normal"


def plain_call(parameter: Parameter, std: float) -> Call:
    """The call that draws with ``std``, by the law the author chose, whatever the shape."""
    law = chosen_law(parameter)
    return _plain("normal" if law == "orthogonal" else law, std)


def _plain(law: str, std: float) -> Call:
    if law == "uniform":
        bound = math.sqrt(3) * std
        return Call("uniform_", f"-{bound:.4g}, {bound:.4g}", std)
    return Call("normal_", f"std={std:.4g}", std)


def _torch_name(gain: float, activation: Activation | None) -> str | None:
    """The arguments with which ``kaiming_normal_`` uses ``gain``, where it can.

    For SELU torch's own word would give 3/4; a self-normalizing net needs gain 1 (Klambauer et al. 2017), which
    torch calls linear.
    """
    if math.isclose(gain, 1.0, rel_tol=SAME_GAIN):
        return 'nonlinearity="linear"'
    slope = activation.negative_slope if activation else None
    if slope and math.isclose(gain, math.sqrt(2 / (1 + slope**2)), rel_tol=SAME_GAIN):
        return f'a={slope:.4g}, nonlinearity="leaky_relu"'
    if math.isclose(gain, math.sqrt(2), rel_tol=SAME_GAIN):
        return 'nonlinearity="relu"'
    return None


def torch_reads_fan_in(layer: Layer) -> bool:
    """Whether ``torch.nn.init`` reads the layer's fan_in off the weight's shape, as ``weight[0].numel()``."""
    return layer.torch_fan_in is not None and math.isclose(layer.torch_fan_in, layer.fan_in, rel_tol=1e-6)


def _torch_reads_fan_out(layer: Layer) -> bool:
    return layer.torch_fan_out is not None and math.isclose(layer.torch_fan_out, layer.fan_out, rel_tol=1e-6)


def _balanced(layer: Layer) -> bool:
    return 1 / BALANCED <= layer.fan_in / layer.fan_out <= BALANCED


def is_embedding(layer: Layer) -> bool:
    """Whether the layer copies rows of its weight, which its kind tells: a table that is multiplied is no embedding."""
    return "embedding" in layer.kind.casefold()


def _embedding(layer: Layer, gain: float) -> Advice:
    """A table's rows are copied, not summed: the output has the variance of the table."""
    width = layer.weight.shape[-1] if layer.weight.shape else 1
    if layer.weight.aliases:
        std = gain / math.sqrt(width)
        twin = layer.weight.aliases[0]
        rule = f"the table is also the weight {twin}, whose fan_in is {width}: Var[z] = {width}·Var[w]·E[x²]"
    elif "bag" in layer.kind.casefold():  # whose rows are summed, or averaged
        std = gain / math.sqrt(layer.fan_in)
        rule = f"of bags Var[z] = {_figure(layer.fan_in)}·Var[w]: the fan of the shape plays no part"
    else:
        std = gain
        rule = "a row is copied, not summed, so Var[z] = Var[w]: the fan of the shape plays no part"
    call = _plain(chosen_law(layer.weight), std)
    why = f"In an embedding {rule}; the std found is {_figure(layer.weight.std)}, {_figure(std)} is right."
    return Advice(call.scheme, gain, std, f"nn.init.{call.scheme}({layer.weight_access}, {call.arguments})", why)


def _why(layer: Layer, activation: Activation | None, gain: float, call: Call) -> str:
    follows = activation.name if activation else "no activation"
    fan_in = _figure(layer.fan_in)
    why = (
        f"Var[z] = fan_in·Var[w]·E[x²] + Var[b] with fan_in {fan_in} and {follows} after it (gain {_figure(gain)}) "
        f"asks for std {_figure(gain)}/√{fan_in} = {_figure(gain / math.sqrt(layer.fan_in))}"
    )
    if call.scheme.startswith("xavier"):
        why += f", and with fan_out {_figure(layer.fan_out)} for the gradient as well, {_figure(call.std)}"
    why += f"; found {_figure(layer.weight.std)}"
    if layer.torch_fan_in is not None and not torch_reads_fan_in(layer):
        why += f" (torch.nn.init would read fan_in {layer.torch_fan_in} off the shape, hence the plain std)"
    elif activation and activation.saturating and layer.torch_fan_out and not _torch_reads_fan_out(layer):
        why += f" (torch.nn.init would read fan_out {layer.torch_fan_out} off the shape, hence the plain std)"
    return why + "."


def _figure(value: float) -> str:
    return f"{value:.4g}"

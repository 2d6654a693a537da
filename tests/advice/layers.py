"""Layer records of real modules, with what the probe would say of them."""

from torch import nn
from torch.nn.init import _calculate_fan_in_and_fan_out

from initaudit.probe.weights import parameter_record
from initaudit.records import Activation, Layer, LayerCall, Parameter

RELU = Activation("relu", 2**0.5, 2**0.5, torch_name="relu")
LEAKY = Activation("leaky_relu", 1.3867505, 1.3867505, torch_name="leaky_relu", negative_slope=0.2)
TANH = Activation("tanh", 1.5925374, 1.4674136, torch_name="tanh", saturating=True)
SIGMOID = Activation("sigmoid", 1.8462285, 4.7226461, torch_name="sigmoid", saturating=True)
GELU = Activation("gelu", 1.5335304, 1.4811144)
SELU = Activation("selu", 1.0, 0.9660258, torch_name="selu")


def layer_of(
    module: nn.Module,
    activation: Activation | None = None,
    *,
    fqn: str = "0",
    name: str = "weight",
    fans: tuple[float, float] | None = None,
    repeats: int = 1,
) -> Layer:
    """The layer that ``module`` would be as part 0 of a sequential model; ``fans`` where torch's are not its own."""
    tensor = dict(module.named_parameters())[name]
    torch_fans = _calculate_fan_in_and_fan_out(tensor)
    weight = parameter_record(f"{fqn}.{name}", tensor, fans=fans or torch_fans, torch_fans=torch_fans, repeats=repeats)
    return Layer(
        fqn=fqn,
        kind=type(module).__name__,
        fan_in=(fans or torch_fans)[0],
        fan_out=(fans or torch_fans)[1],
        weight=weight,
        bias=bias_of(module, fqn),
        calls=(LayerCall(0, None, None, None, None, nonlinearity=activation),),
        access=f"m[{fqn}]",
        weight_access=f"m[{fqn}].{name}",
        torch_fan_in=torch_fans[0],
        torch_fan_out=torch_fans[1],
        repeats=repeats,
    )


def bias_of(module: nn.Module, fqn: str) -> Parameter | None:
    bias = getattr(module, "bias", None)
    return None if bias is None else parameter_record(f"{fqn}.bias", bias, fans=None, torch_fans=None)

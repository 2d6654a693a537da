"""Effective fans: how many products each output sums (fan_in), and each input's gradient sums (fan_out).

``E[out^2] = fan_in * Var(w) * E[x^2]`` forward and ``E[grad_x^2] = fan_out * Var(w) * E[grad_out^2]`` backward, for
independent zero-mean weights (He et al. 2015, arXiv:1502.01852). ``torch.nn.init`` reads both from a weight's shape
alone, which is right for Linear and a plain convolution, and wrong for groups and strides (fan_out), transposed
convolutions (swapped), stacked gates, embeddings and (in, out) layouts. torch is imported when a module is looked at.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from initaudit.errors import UnknownLayerError

if TYPE_CHECKING:
    from torch import nn

Fans = tuple[float, float]
Shape = tuple[int, ...]

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1, "lstm_cell": 4, "gru_cell": 3, "rnn_tanh_cell": 1,
          "rnn_relu_cell": 1, "multi_head_attention_forward": 3}  # fmt: skip
_X_AT_W = ("addmm", "matmul", "mm", "bmm", "baddbmm", "addbmm", "__matmul__")


def torch_fans(shape: Sequence[int]) -> tuple[int, int] | None:
    """(fan_in, fan_out) as ``torch.nn.init`` reads them from a shape; ``None`` below two dimensions."""
    if len(shape) < 2:
        return None
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def _stride(stride: int | Sequence[int], dims: int) -> int:
    """Product over the ``dims`` dimensions of a kernel."""
    return stride**dims if isinstance(stride, int) else math.prod(stride)


def convolution_fans(shape: Shape, *, groups: int = 1, stride: int | Sequence[int] = 1) -> Fans:
    """Fans of a convolution with weight (out, in/groups, *kernel).

    An input pixel meets only ``prod(kernel)/prod(stride)`` kernel positions, in its own group of outputs.
    Borders with zero padding see less of both, and dilation changes neither.
    """
    kernel = math.prod(shape[2:])
    return float(shape[1] * kernel), shape[0] / groups * kernel / _stride(stride, len(shape) - 2)


def transposed_convolution_fans(shape: Shape, *, groups: int = 1, stride: int | Sequence[int] = 1) -> Fans:
    """Fans of a transposed convolution with weight (in, out/groups, *kernel): a convolution's, turned around.

    fan_in is the mean over output positions; a kernel that is no multiple of the stride makes it vary (checkerboard).
    """
    kernel = math.prod(shape[2:])
    return shape[0] / groups * kernel / _stride(stride, len(shape) - 2), float(shape[1] * kernel)


def fans_of_op(
    op: str,
    weight_shape: Sequence[int],
    *,
    groups: int = 1,
    stride: int | Sequence[int] = 1,
    transposed_weight: bool = False,
) -> tuple[float, float, int]:
    """(fan_in, fan_out, repeats) of a weight as an operation uses it, from the operation's name and the shape.

    ``linear`` has weight (out, in); ``matmul``, ``addmm`` and their kin compute x @ W with W (..., in, out), leading
    dimensions being a batch of weights. ``transposed_weight``: ``weight_shape`` is that of a parameter that was
    transposed on its way in (``x @ W.T``), or stands on the left (``W @ x``). ``repeats`` counts stacked blocks of rows
    with one fan each (gates, packed q/k/v). Raises ``UnknownLayerError`` for an operation it does not know.
    """
    shape = tuple(weight_shape)
    kind = op.rsplit(".", 1)[-1].lower()
    if kind in ("linear", *_X_AT_W) and shape:
        rows, columns = (
            (shape[-2], shape[-1]) if len(shape) > 1 else ((1, shape[0]) if kind == "linear" else (*shape, 1))
        )
        rows_are_inputs = (kind != "linear") != transposed_weight
        return (float(rows), float(columns), 1) if rows_are_inputs else (float(columns), float(rows), 1)
    if kind.startswith("conv_transpose") and len(shape) > 2:
        return (*transposed_convolution_fans(shape, groups=groups, stride=stride), 1)
    if kind.startswith("conv") and len(shape) > 2:
        return (*convolution_fans(shape, groups=groups, stride=stride), 1)
    if kind in ("embedding", "embedding_bag") and len(shape) == 2:
        return 1.0, float(shape[1]), 1
    if kind == "bilinear" and len(shape) == 3:
        return float(shape[1] * shape[2]), float(shape[0] * shape[2]), 1
    if kind in _GATES and len(shape) == 2:
        return float(shape[1]), shape[0] / _GATES[kind], _GATES[kind]
    raise UnknownLayerError(
        f"no fans for a weight of shape {list(shape)} in {op!r}: expected a linear, convolution, transposed "
        "convolution, embedding, bilinear or recurrent operation. Give such a weight a standard deviation of its own."
    )


def fan_in_and_fan_out(module: nn.Module, name: str = "weight") -> Fans:
    """Effective (fan_in, fan_out) of a weight, for any kind of layer.

    ``name`` is the parameter's name below ``module``, dotted for a part of it (``"out_proj.weight"``). Recurrent
    layers and ``MultiheadAttention`` count one gate, or one of q, k, v, at a time. Embeddings copy a row, so
    fan_in is 1 (per row, in an EmbeddingBag). ``Bilinear``'s fan_out is that towards its first input. Layers
    outside torch are recognised by structure: in_features/out_features, in_channels/out_channels, or ``nf`` (GPT-2's
    Conv1D, whose weight is (in, out)). What a parametrization makes the weight of (``weight_v``, ``weight_orig``,
    ``parametrizations.weight.original``) has the fans of that weight. Raises ``UnknownLayerError`` for norms, biases,
    weights not yet made, and bare parameters, whose fans only their use tells.
    """
    path, _, leaf = _weight_behind(name).rpartition(".")
    if path:
        try:
            module = module.get_submodule(path)
        except AttributeError as error:
            raise UnknownLayerError(f"{type(module).__name__} has no part {path!r}: {error}") from error
    for suffix in ("_orig", "_v"):
        if leaf.endswith(suffix) and hasattr(module, leaf.removesuffix(suffix)):
            leaf = leaf.removesuffix(suffix)
    shape = _weight_shape(module, leaf)
    fans = _fans_by_class(module, leaf, shape) or _fans_by_structure(module, leaf, shape)
    if fans is None and len(shape) > 1:
        raise UnknownLayerError(
            f"{type(module).__name__}.{leaf} of shape {list(shape)} has no fans that its module tells: "
            "they follow from what it is multiplied with. `initaudit.audit(model, inputs).layers` has those of its use."
        )
    if fans is None:
        raise UnknownLayerError(
            f"{type(module).__name__}.{leaf} of shape {list(shape)} has no fans: expected the weight of a linear, "
            "convolutional, embedding, bilinear, recurrent or attention layer. Initialize it by its own rule "
            "(norm gains are 1, biases 0)."
        )
    return fans


def _weight_behind(name: str) -> str:
    """``"0.weight"`` for ``"0.parametrizations.weight.original1"``."""
    return re.sub(r"(^|\.)parametrizations\.(\w+)\.original1?$", r"\1\2", name)


def _weight_shape(module: nn.Module, name: str) -> Shape:
    import torch
    from torch.nn.parameter import is_lazy
    from torch.nn.utils.parametrize import is_parametrized

    # Reading a parametrized weight computes it, and may step the buffers of its parametrization (spectral norm).
    owner = copy.deepcopy(module) if is_parametrized(module, name) else module
    weight = getattr(owner, name, None)
    if not isinstance(weight, torch.Tensor):
        known = ", ".join(repr(n) for n, _ in module.named_parameters(recurse=False)) or "none"
        raise UnknownLayerError(f"{type(module).__name__} has no parameter {name!r}: its own parameters are {known}")
    if is_lazy(weight):
        raise UnknownLayerError(
            f"{type(module).__name__}.{name} has no shape yet: it is lazy, run the module once before asking"
        )
    return tuple(weight.shape)


def _fans_by_class(module: nn.Module, name: str, shape: Shape) -> Fans | None:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        if len(shape) < 2:
            return None
        gates = 4 if "LSTM" in _kind(module) else 3 if "GRU" in _kind(module) else 1
        stacked = 1 if name.startswith("weight_hr") else gates
        return float(shape[1]), shape[0] / stacked
    if isinstance(module, nn.MultiheadAttention):
        stacked = 3 if name == "in_proj_weight" else 1
        return (float(shape[1]), shape[0] / stacked) if name.endswith("_proj_weight") else None
    if name != "weight":
        return None
    if isinstance(module, _ConvTransposeNd):
        return transposed_convolution_fans(shape, groups=module.groups, stride=module.stride)
    if isinstance(module, _ConvNd):
        return convolution_fans(shape, groups=module.groups, stride=module.stride)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return fans_of_op("embedding", shape)[:2]
    if isinstance(module, nn.Bilinear):
        return fans_of_op("bilinear", shape)[:2]
    if isinstance(module, nn.Linear):
        return float(shape[1]), float(shape[0])
    return None


def _kind(module: nn.Module) -> str:
    """The recurrent kind: the class's own name, or ``mode`` of an RNN base."""
    bases = " ".join(base.__name__ for base in type(module).__mro__)
    return f"{bases} {getattr(module, 'mode', '')}"


def _fans_by_structure(module: nn.Module, name: str, shape: Shape) -> Fans | None:
    """Layers of other libraries, by the attributes that torch's own layers have."""
    if name != "weight":
        return None
    if len(shape) == 2 and getattr(module, "nf", None) == shape[1]:
        return float(shape[0]), float(shape[1])
    features = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if len(shape) == 2 and features == (shape[1], shape[0]):
        return float(shape[1]), float(shape[0])
    groups = getattr(module, "groups", 1)
    channels = getattr(module, "in_channels", None), getattr(module, "out_channels", None)
    if len(shape) > 2 and channels == (shape[1] * groups, shape[0]):
        return convolution_fans(shape, groups=groups, stride=getattr(module, "stride", 1))
    return None

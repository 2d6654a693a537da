"""What a state dict holds beside weights: masks, scales, tables of positions. Their values tell, or else their name."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from initaudit.probe.builds import is_regular
from initaudit.records import Parameter

# Scales, of the blocks of a quantized weight say, are positive numbers as any others: nothing but their name tells.
_SCALES = frozenset({"scale", "scales", "zeros", "absmax"})
_SCALE_FORMAT = "float8_e8m0fnu"  # powers of two without a sign


def unreadable(tensor: Tensor) -> str:
    """Why a tensor holds no plain floating-point numbers to look at, or ``""``."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        return f"{layout}: only dense tensors are looked at"
    if tensor.is_meta:
        return "on the meta device, without values"
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return f"{kind} of {tensor.numel()} entries, not a weight"
    if kind == _SCALE_FORMAT:
        return f"{kind}: a format of scales, not of weights"
    try:
        tensor.flatten()[:1].float()
    except RuntimeError:  # packed formats, that torch stores and does not read
        return f"{kind}, whose numbers torch does not read"
    return ""


def is_mask(tensor: Tensor) -> bool:
    """Whether a matrix or more holds zero and one other value, each of them at least once per row on average.

    A single infinity in a matrix of zeros is none.
    """
    if tensor.dim() < 2:
        return False
    plain = tensor if tensor.element_size() > 1 else tensor.float()  # float8 has no order of its own
    low, high = (float(end) for end in plain.aminmax())
    if low == high or 0 not in (low, high) or high == torch.inf:
        return False
    zeros = int((plain == 0).sum())
    others = int((plain == (low or high)).sum())
    return zeros + others == plain.numel() and min(zeros, others) >= max(2, plain.numel() // plain.shape[-1])


def no_matrix(tensor: Tensor, parameter: Parameter) -> str:
    """Why a tensor of two dimensions or more, of which nothing but name and values is known, may be no matrix."""
    words = re.split(r"[._]", parameter.fqn.rpartition(".")[2].lower())
    if not _SCALES.isdisjoint(words):
        return "a scale, as its name says"
    if parameter.constant and parameter.min == 1:
        return "ones, as a gain or a mask has them; whether a matrix of equal units, only a run can tell"
    if parameter.identical_rows or abs(parameter.mean) > parameter.std:  # else it scatters around zero, as weights do
        line = tensor[0] if parameter.identical_rows else tensor
        return "a table, whose entries follow from their neighbours" if is_regular(line) else ""
    return ""

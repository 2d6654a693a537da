"""What a batch norm computes of its input tells the rms of that input and of its output, which need no reading then."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from initaudit.probe import devices
from initaudit.probe.whole import Ends

_DIGITS = 0.1  # share of the variance in what it is divided by, below which float32 has lost too many of them


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor that a call of ``F.batch_norm`` normalizes."""
    return args[0] if args else kwargs.get("input")


def ends_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[Ends | None, Ends | None]:
    """Norm and check of input and output of a call of ``F.batch_norm``; ``None`` where they have to be read.

    With the variance ``v`` of a channel and its mean ``m``, as autograd keeps them for the backward pass, the mean
    square of the input is ``v + m^2`` and that of the output ``w^2 v / (v + eps) + b^2`` (Ioffe & Szegedy 2015).
    """
    data = input_of(args, kwargs)
    if func is not F.batch_norm or data.numel() <= devices.FEW or not devices.answers_at_once(data.device):
        return None, None  # or it is read in less time
    saved = out.grad_fn
    mean, inverse = (getattr(saved, f"_saved_result{i}", None) for i in (1, 2))
    if mean is None or inverse is None or mean.numel() != data.shape[1] or data.dtype is not torch.float32:
        return None, None
    weight, bias = (args[i] if len(args) > i else kwargs.get(name) for i, name in ((3, "weight"), (4, "bias")))
    eps, channels, each = saved._saved_eps, mean.numel(), data.numel() // mean.numel()
    m, s = _wide(mean), _wide(inverse)
    w = np.ones_like(s) if weight is None else _wide(weight)
    divided = (s**-2.0).sum()  # v + eps
    inside = divided - channels * eps + m @ m
    gains, lost = w @ w, eps * ((w * s) ** 2).sum()  # w^2 v / (v + eps) is w^2 less w^2 eps s^2
    added = 0.0 if bias is None else float(np.square(_wide(bias)).sum())
    return (
        _ends(each * inside) if inside > _DIGITS * divided else None,
        _ends(each * (gains - lost + added)) if gains == 0 or gains - lost > _DIGITS * gains else None,
    )


def _wide(tensor: Tensor) -> Any:
    return tensor.detach().numpy().astype(np.float64)


def _ends(squares: float) -> Ends | None:
    return (math.sqrt(squares), math.sqrt(squares)) if math.isfinite(squares) else None

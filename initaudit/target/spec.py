"""The written form of a sample input: ``32x3x224x224``, ``int64[8,128]<50257``, ``mask=bool[8,128]``, ``@batch.pt``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from initaudit.errors import UsageError
from initaudit.target.tree import dtype_name

_NAMED = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<rest>.*)", re.DOTALL)
_SHORT = re.compile(r"\d+(x\d+)*")
_FULL = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<dims>[\d\s,]*)\](<(?P<bound>\d+))?")
_DEFAULT_BOUND = 10
_FORMS = (
    "expected a shape (32x3x224x224), a dtype and a shape (float32[32,3,224,224]), integers below a bound "
    "(int64[8,128]<50257), or a file (@batch.pt, @batch.npy), with name=... before it for a keyword argument"
)


def parse_input_spec(text: str, *, seed: int = 0, default_bound: int = _DEFAULT_BOUND) -> tuple[str | None, Any]:
    """One written input as ``(keyword or None, value)``.

    Floats are drawn from N(0, 1), integers uniformly from ``[0, bound)`` and bools with equal chance, by a generator
    seeded with ``seed``; integers without a bound are below ``default_bound``. Raises :class:`UsageError`.
    """
    named = _NAMED.fullmatch(text.strip())
    name, body = (named["name"], named["rest"].strip()) if named else (None, text.strip())
    if body.startswith("@"):
        return name, _from_file(text, body[1:])
    if _SHORT.fullmatch(body):
        return name, _draw(text, torch.float32, [int(size) for size in body.split("x")], None, seed, default_bound)
    full = _FULL.fullmatch(body)
    if full is None:
        raise UsageError(f"input {text!r} is malformed: {_FORMS}")
    dtype = getattr(torch, full["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(
            f"input {text!r}: unknown dtype {full['dtype']!r}, expected one of torch's, e.g. float32, int64, bool"
        )
    sizes = [size.strip() for size in full["dims"].split(",")] if full["dims"].strip() else []
    if not all(sizes):
        raise UsageError(f"input {text!r} is malformed: a size is missing between the brackets, expected e.g. [8,128]")
    return name, _draw(text, dtype, [int(s) for s in sizes], full["bound"], seed, default_bound)


def _draw(
    text: str, dtype: torch.dtype, sizes: list[int], bound: str | None, seed: int, default_bound: int
) -> torch.Tensor:
    if 0 in sizes:
        raise UsageError(f"input {text!r} has a size of 0, expected sizes of at least 1")
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point or dtype.is_complex:
        if bound is not None:
            raise UsageError(f"input {text!r}: a bound is for integers, expected e.g. int64[8,128]<{bound}")
        wide = torch.complex64 if dtype.is_complex else torch.float32  # narrow formats have no random kernels
        return torch.randn(sizes, generator=generator, dtype=wide, device="cpu").to(dtype)
    if dtype is torch.bool:
        if bound is not None:
            raise UsageError(f"input {text!r}: a bound is for integers, expected e.g. bool[8,128]")
        return torch.randint(2, sizes, generator=generator, device="cpu").to(torch.bool)
    try:
        high = int(bound) if bound is not None else min(default_bound, torch.iinfo(dtype).max)
        if not 1 <= high <= torch.iinfo(dtype).max:
            limit = torch.iinfo(dtype).max
            raise UsageError(
                f"input {text!r}: the bound {high} is out of range, expected 1 to {limit} for {dtype_name(dtype)}"
            )
    except TypeError as error:  # quantized and bit types
        raise UsageError(
            f"input {text!r}: {dtype_name(dtype)} cannot be drawn, expected a float, an integer or bool"
        ) from error
    return torch.randint(high, sizes, generator=generator, device="cpu").to(dtype)


def _from_file(text: str, path: str) -> Any:
    suffix = Path(path).suffix
    if suffix not in (".pt", ".pth", ".npy"):
        raise UsageError(f"input {text!r}: {path or 'no file'} is neither .pt nor .npy, expected e.g. @batch.pt")
    if not Path(path).is_file():
        raise UsageError(f"input {text!r}: no such file: {path}")
    try:
        if suffix == ".npy":
            import numpy as np

            return torch.from_numpy(np.load(path, allow_pickle=False))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each loader has its own errors for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"input {text!r}: could not read {path}: {reason}\n"
            "  Expected tensors (or lists, tuples, dicts of them) saved by torch.save, or an array saved by numpy.save."
        ) from error

"""The tensors of a file that ``torch.save`` wrote, by name; no code in the file is ever run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from initaudit.errors import AuditError

Named = Iterator[tuple[str, Tensor | str]]  # a tensor, or why what has this name is not judged

_HOMES = ("state_dict", "model_state_dict", "model", "module")  # the weights, beside other things of a training script
_MAGIC = (b"PK\x03\x04", b"\x80")  # of the zip archive that torch writes, and of the pickle that it wrote before 1.6
_OPTIMIZER = frozenset({"state", "param_groups"})
_LFS = b"version https://git-lfs"


def from_torch(path: Path) -> Named:
    """What a torch file holds: names dotted where mappings lie in each other, tensors on the cpu.

    Of the weights that a training script keeps under ``state_dict`` or the like, the names start below it; mappings of
    the same names, as averaged weights are, come after them. What is passed over with tensors in it comes as a reason.

    Raises:
        AuditError: it is no such file, or there is no tensor in it.
    """
    content = _content(path)
    try:
        found = list(_named(content)) if isinstance(content, Mapping) else []
    except RecursionError as error:
        raise AuditError("load", f"{path} is damaged: its mappings hold each other") from error
    if not any(isinstance(value, Tensor) for _, value in found):
        keys = ", ".join(map(repr, list(content)[:8])) if isinstance(content, Mapping) else ""
        what = f"a {type(content).__name__}" + (f" with the keys {keys}" if keys else "")
        raise AuditError("load", f"{path} holds no tensor by name; it is {what}, expected a state_dict")
    yield from found


def beginning(path: Path) -> str:
    """The first bytes of a file that is not what its name says, in words."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        return "it is empty"
    if start.startswith(_LFS):
        return "it is a Git LFS pointer; fetch the file with `git lfs pull`"
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in start)
    return f"it starts with {text!r}"


def _content(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if not start.startswith(_MAGIC):
            raise AuditError("load", f"{path} is no torch checkpoint: {beginning(path)}")
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except (AuditError, KeyboardInterrupt):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise AuditError("load", _refusal(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    """What torch says of it, without its advice to run what is in the file."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    if refused := re.search(r"\bGLOBAL (\S+)", text):
        return (
            f"{path} holds more than tensors ({refused[1]}, which is not loaded, as loading runs code); "
            "save model.state_dict() alone, or as safetensors"
        )
    if "TorchScript" in text:
        return f"{path} is a TorchScript archive; save its state_dict() and audit that"
    if "weights_only" in text or not text:
        text = "it breaks off, or torch.save did not write it"
    return f"{path} cannot be read as a torch checkpoint: {type(error).__name__}: {text.splitlines()[0]}"


def _named(content: Mapping[Any, Any]) -> Named:
    home = next((key for key in _HOMES if isinstance(content.get(key), Mapping) and _count(content[key])), None)
    if home is None:
        yield from _walk(content)
        return
    weights = dict(_walk(content[home]))
    yield from weights.items()
    for key, value in content.items():
        others = dict(_walk(value, f"{key}.")) if isinstance(value, Mapping) else {}
        if key != home and others.keys() == {f"{key}.{name}" for name in weights}:
            yield from others.items()
        elif key != home and (count := _count(value)):
            yield str(key), f"{_tensors(count)} beside {home!r}, not read"


def _walk(content: Mapping[Any, Any], above: str = "") -> Named:
    for key, value in content.items():
        name = f"{above}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping) and not value.keys() >= _OPTIMIZER:
            yield from _walk(value, f"{name}.")
        elif count := _count(value):
            yield name, f"{_tensors(count)} of {'an optimizer' if isinstance(value, Mapping) else 'a list'}, not read"


def _count(tree: Any) -> int:
    return sum(isinstance(leaf, Tensor) for leaf in tree_leaves(tree))


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"

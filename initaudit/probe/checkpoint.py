"""The tensors of a checkpoint, one at a time: safetensors or torch files, whole or in shards with their index."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from initaudit.errors import AuditError, UsageError

_INDEX = ".index.json"
_SAFETENSORS = ".safetensors"
_ENDINGS = (_SAFETENSORS, _INDEX, ".pt", ".pth", ".bin", ".ckpt")
_HOMES = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights beside other things


def is_checkpoint(spec: str) -> bool:
    """Whether a TARGET names a checkpoint, by its ending."""
    return spec.endswith(_ENDINGS)


def read_tensors(spec: str) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each tensor, on the cpu. A file is mapped and not read, so that one tensor is held at a time.

    Of an index (``model.safetensors.index.json``), the shards come in its order, each of them closed before the next.

    Raises:
        UsageError: there is no such file, or the package that reads it is missing.
        AuditError: it is no checkpoint, or a shard is missing.
    """
    path = Path(spec)
    if not path.is_file():
        raise UsageError(f"no such checkpoint: {spec}")
    for shard in _shards(path) if spec.endswith(_INDEX) else [path]:
        yield from _from_safetensors(shard) if shard.name.endswith(_SAFETENSORS) else _from_torch(shard)


def _shards(index: Path) -> list[Path]:
    try:
        names = list(dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuditError("load", f"{index} is no index of shards: expected JSON with a weight_map of files") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise AuditError("load", f"{index} names {len(names)} files, of which {missing[0]} is missing")
    return [index.parent / name for name in names]


def _from_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UsageError(
            f"to read {path} takes the package safetensors: pip install 'initaudit[safetensors]'"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise AuditError("load", f"{path} cannot be read as safetensors: {error}") from error


def _from_torch(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise AuditError(
            "load", f"{path} holds more than tensors ({reason}); save model.state_dict() alone, or as safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise AuditError("load", f"{path} cannot be read as a torch checkpoint: {error}") from error
    found = [(name, value) for name, value in _state(content).items() if isinstance(value, Tensor)]
    if not found:
        raise AuditError("load", f"{path} holds no tensor by name; expected a state_dict, or one under 'state_dict'")
    yield from found


def _state(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        return {}
    return next((content[home] for home in _HOMES if isinstance(content.get(home), Mapping)), content)

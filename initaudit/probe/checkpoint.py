"""The tensors of a checkpoint, one at a time: safetensors or torch files, whole or in shards with their index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from initaudit.choices import is_checkpoint
from initaudit.errors import AuditError, UsageError
from initaudit.probe.pickled import Named, beginning, from_torch

_INDEX = ".index.json"
_SAFETENSORS = ".safetensors"


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder that name all of a model: an index instead of its shards."""
    found = in_order(str(path) for path in folder.iterdir() if path.is_file() and is_checkpoint(path.name))
    return [Path(name) for name in sorted(found, key=lambda name: not name.endswith(_INDEX))]


def read_tensors(spec: str) -> Named:
    """Name and value of each tensor, on the cpu, or the reason why what has that name is not judged.

    A file is mapped and not read, so that one tensor is held at a time. Of an index (``model.safetensors.index.json``),
    the shards come in the order of their numbers, each of them closed before the next.

    Raises:
        UsageError: there is no such file, or the package that reads it is missing.
        AuditError: it is no checkpoint, or a shard is missing, or a tensor that the index names.
    """
    path = Path(spec)
    if path.is_dir():
        raise UsageError(f"{spec} is a folder; expected a file of weights: name one of those in it")
    if not path.is_file():
        raise UsageError(f"no such checkpoint: {spec}")
    if not path.name.lower().endswith(_INDEX):
        yield from _tensors_of(path)
        return
    for shard, names in _shards(path).items():
        yield from _as_listed(path, shard, names)


def in_order(names: Iterable[str]) -> list[str]:
    """Names with the numbers in them in their own order: ``layers.2`` before ``layers.10``."""
    return sorted(names, key=lambda name: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", name))])


def _tensors_of(path: Path) -> Named:
    return _from_safetensors(path) if path.name.lower().endswith(_SAFETENSORS) else from_torch(path)


def _shards(index: Path) -> dict[Path, set[str]]:
    """The files that an index names, with the names of the tensors that it says are in each."""
    try:
        places: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = in_order(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuditError("load", f"{index} is no index of shards: expected JSON with a weight_map of files") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise AuditError("load", f"{index} names {len(names)} files, of which {missing[0]} is missing")
    return {index.parent / name: {tensor for tensor, at in places.items() if at == name} for name in names}


def _as_listed(index: Path, shard: Path, names: set[str]) -> Named:
    """The tensors of a shard that its index names; what else lies there is not what a model would load."""
    missing = set(names)
    for name, value in _tensors_of(shard):
        missing.discard(name)
        yield name, value if name in names else f"in {shard.name}, where {index.name} does not list it"
    if missing:
        count = f"{len(missing)} tensors" if len(missing) > 1 else "1 tensor"
        raise AuditError(
            "load",
            f"{shard} lacks {count} that {index.name} lists there: {', '.join(in_order(missing)[:4])}\n"
            "  The two are not of one checkpoint, or the file is incomplete; fetch or save both again.",
        )


def _from_safetensors(path: Path) -> Named:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UsageError(
            f"to read {path} takes the package safetensors: pip install 'initaudit[safetensors]'"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            for name in in_order(file.keys()):
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        start = f"; {beginning(path)}" if "header too" in str(error) else ""  # what stands there is no length at all
        raise AuditError("load", f"{path} cannot be read as safetensors: {error}{start}") from error

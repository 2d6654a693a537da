"""The ``[tool.initaudit]`` table: which keys it may hold, where it is looked for, what is wrong with it."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from initaudit.choices import DEVICE, DEVICE_EXPECTED, DTYPES, FAIL_ON, FORMATS
from initaudit.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Kind:
    """What a key may hold: ``read`` returns the value as the option has it, or raises ``ValueError``."""

    expected: str
    read: Callable[[Any], Any]


def _when(condition: bool, value: Any) -> Any:
    if not condition:
        raise ValueError
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    _when(isinstance(values, list) and all(isinstance(v, str) for v in values), values)
    return tuple(values)


def _choice(*names: str) -> Kind:
    return Kind("one of " + ", ".join(names), lambda v: _when(v in names, v))


TEXT = Kind("a string", lambda v: _when(isinstance(v, str), v))
TEXTS = Kind("a string or a list of strings", _read_texts)
FLAG = Kind("true or false", lambda v: _when(isinstance(v, bool), v))
COUNT = Kind("a whole number, 1 or more", lambda v: _when(isinstance(v, int) and _is_number(v) and v >= 1, v))
WHOLE = Kind("a whole number, 0 or more", lambda v: _when(isinstance(v, int) and _is_number(v) and v >= 0, v))
SECONDS = Kind("a number of seconds above 0", lambda v: float(_when(_is_number(v) and 0 < v < math.inf, v)))
DEVICES = Kind(DEVICE_EXPECTED, lambda v: _when(isinstance(v, str) and bool(DEVICE.fullmatch(v)), v))


def _key(kind: Kind, default: Any = None) -> Any:
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True)
class Settings:
    """Every setting of an audit: its defaults here, then the table's values, then the command line's."""

    targets: tuple[str, ...] = _key(TEXTS, ())
    input: tuple[str, ...] = _key(TEXTS, ())
    loss: str | None = _key(TEXT)
    device: str = _key(DEVICES, "auto")
    dtype: str | None = _key(_choice(*DTYPES))
    seed: int = _key(WHOLE, 0)
    seeds: int = _key(COUNT, 1)
    format: str = _key(_choice(*FORMATS), "table")
    output: str | None = _key(TEXT)
    figure: str | None = _key(TEXT)
    verbose: int = _key(WHOLE, 0)
    quiet: int = _key(WHOLE, 0)
    no_color: bool = _key(FLAG, False)
    select: tuple[str, ...] = _key(TEXTS, ())
    ignore: tuple[str, ...] = _key(TEXTS, ())
    fail_on: str = _key(_choice(*FAIL_ON), "error")
    exitfirst: bool = _key(FLAG, False)
    timeout: float | None = _key(SECONDS)
    workers: int = _key(COUNT, 1)
    weights_only: bool = _key(FLAG, False)


def load(config: str | None = None, start: Path | None = None) -> Settings:
    """The settings of the file ``config``, else of the nearest ``pyproject.toml`` that has the table.

    The search goes from ``start`` (the current directory) upward, and passes over a ``pyproject.toml`` without
    ``[tool.initaudit]``. The file given by name may also hold the keys at its top level. Relative paths among the
    values are relative to the file they stand in.

    Raises:
        UsageError: the file cannot be read or is not TOML, or a key is unknown or holds the wrong type.
    """
    if config is not None:
        path = Path(config)
        document = _read(path)
        table = _table(document, path)
        if table is None:
            table = {} if path.name == "pyproject.toml" else document
        return _settings(table, path)
    start = start or Path.cwd()
    for directory in (start, *start.parents):
        path = directory / "pyproject.toml"
        if path.is_file() and (table := _table(_read(path), path)) is not None:
            return _settings(table, path)
    return Settings()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return document
    except OSError as error:
        raise UsageError(f"cannot read the configuration file {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _table(document: Mapping[str, Any], path: Path) -> Mapping[str, Any] | None:
    tool = document.get("tool", {})
    table = tool.get("initaudit") if isinstance(tool, dict) else None
    if table is None or isinstance(table, dict):
        return table
    raise UsageError(f"{path}: tool.initaudit is {table!r}, expected a table [tool.initaudit]")


def _settings(table: Mapping[str, Any], path: Path) -> Settings:
    kinds: dict[str, Kind] = {f.name: f.metadata["kind"] for f in fields(Settings)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        spelled = sorted(known.replace("_", "-") for known in kinds)
        if name not in kinds:
            close = get_close_matches(name.replace("_", "-"), spelled, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(spelled)}"
            raise UsageError(f"{path}: unknown key {key!r} in the initaudit settings; {hint}")
        if name in values:
            raise UsageError(f"{path}: {key!r} is set twice, once with - and once with _; keep one")
        try:
            values[name] = kinds[name].read(value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}: {key} = {value!r}, expected {kinds[name].expected}") from error
    return Settings(**_rebased(values, path.absolute().parent))


def _rebased(values: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The values with each relative path read from ``directory`` instead of from the current one."""

    def rebase(path: str) -> str:
        try:
            return path if Path(path).is_absolute() else os.path.relpath(directory / path)
        except ValueError:  # another drive on Windows
            return str(directory / path)

    if "targets" in values:
        values["targets"] = tuple(rebase(t) if is_path(t) else t for t in values["targets"])
    if "input" in values:
        values["input"] = tuple(
            re.sub(r"^([^@]*@)(.+)$", lambda m: m[1] + rebase(m[2]), text) for text in values["input"]
        )
    for key in ("output", "figure"):
        if values.get(key):
            values[key] = rebase(values[key])
    return values


def is_path(target: str) -> bool:
    """Whether a TARGET is a path (with or without ``::Name``) rather than ``module:attr`` or ``hf:...``."""
    if target.startswith(("hf:", "timm:")):
        return False
    path = target.partition("::")[0]
    return "/" in path or os.sep in path or path.endswith(".py") or ":" not in path

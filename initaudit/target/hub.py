"""Architectures by name from transformers and timm, with random weights and without the network."""

from __future__ import annotations

import difflib
import importlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from initaudit.errors import AuditError
from initaudit.target.frames import exception_text

# Sensible heads, most telling first; a config that fits none gets the bare model.
_DECODING_HEADS = ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq")
_HEADS = (
    "AutoModelForCTC",  # before masked language models, among which transformers 4 counts those of speech
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForZeroShotImageClassification",
    "AutoModelForImageClassification",
    "AutoModelForAudioClassification",
    "AutoModelForObjectDetection",
    "AutoModelForSemanticSegmentation",
    "AutoModel",
)


def transformers_factory(name: str) -> Callable[[], nn.Module]:
    """A factory for ``hf:NAME``: a model type such as ``gpt2``, or the path of a config JSON.

    Raises :class:`AuditError` (stage "load") when transformers is missing or knows no such architecture.
    """
    transformers = _extra("transformers", "hf", f"hf:{name}")
    config = _config(transformers, name)

    return lambda: _from_config(transformers, config)


def timm_factory(name: str) -> Callable[[], nn.Module]:
    """A factory for ``timm:NAME``. Raises :class:`AuditError` (stage "load") for a missing package or unknown name."""
    timm = _extra("timm", "timm", f"timm:{name}")
    if not timm.is_model(name):
        raise AuditError(
            "load", _unknown(f"timm:{name}", name, timm.list_models(), "timm.list_models() names them all")
        )

    def build() -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False)
        return model

    return build


def _extra(package: str, extra: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = getattr(error, "name", None) or package
        if missing.partition(".")[0] == package:
            raise AuditError("load", f"{spec} needs {package}: pip install 'initaudit[{extra}]'") from error
        raise AuditError(
            "load",
            f"{spec} needs {package}, which cannot be imported here: {exception_text(error)}\n"
            f"  Install {missing}, or all of it: pip install 'initaudit[{extra}]'",
        ) from error


def _unknown(spec: str, name: str, known: Iterable[str], where: str) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    hint = f"Did you mean {', '.join(close)}?" if close else f"Check the name: {where}."
    return f"unknown architecture {spec}\n  {hint}"


def _config(transformers: Any, name: str) -> Any:
    mapping = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    if not (name.endswith(".json") or Path(name).exists()):
        by_folded_name = {_folded(key): key for key in mapping}
        key = name if name in mapping else by_folded_name.get(_folded(name))
        if key is None:
            where = "model types are listed in transformers' CONFIG_MAPPING; a config JSON works too"
            raise AuditError("load", _unknown(f"hf:{name}", name, mapping, where))
        return _configured(transformers, f"hf:{name}", key, {})
    path = Path(name) / "config.json" if Path(name).is_dir() else Path(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError("load", f"could not read the config {path}: {exception_text(error)}") from error
    if not isinstance(values, dict) or values.get("model_type") not in mapping:
        found = values.get("model_type") if isinstance(values, dict) else type(values).__name__
        raise AuditError(
            "load", f'{path}: "model_type" is {found!r}, expected an architecture that transformers knows, e.g. "gpt2"'
        )
    return _configured(transformers, str(path), values.pop("model_type"), values)


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _configured(transformers: Any, shown: str, model_type: str, values: dict[str, Any]) -> Any:
    try:
        return transformers.AutoConfig.for_model(model_type, **values)
    except Exception as error:  # a config class may reject its values in any way
        raise AuditError("load", f"{shown} is no valid config of {model_type}: {exception_text(error)}") from error


def _from_config(transformers: Any, config: Any) -> nn.Module:
    config.architectures = config.architectures or []  # where one config has several models, transformers walks it
    for architecture in getattr(config, "architectures", None) or ():
        if (cls := getattr(transformers, architecture, None)) is not None:
            model: nn.Module = cls(config)
            return model
    heads = (*_DECODING_HEADS, *_HEADS) if getattr(config, "is_encoder_decoder", False) else _HEADS
    for head in heads:
        auto = getattr(transformers, head)
        if type(config) in auto._model_mapping:
            built: nn.Module = auto.from_config(config)
            return built
    raise AuditError(
        "load",
        f"transformers has no model for a bare {type(config).__name__}\n"
        '  Name the class under "architectures" in a config JSON.',
    )


def check_memory(build: Callable[[], nn.Module], spec: str) -> None:
    """Refuse a model whose weights and gradients cannot fit: default configs are those of the largest checkpoints."""
    available = _available_bytes()
    if available is None:
        return
    try:
        with torch.device("meta"):
            model = build()
    except AuditError:
        raise
    except Exception:  # not every architecture can be built without memory; the real build will tell
        return
    count = sum(p.numel() for p in model.parameters())
    needed = 2 * sum(p.numel() * p.element_size() for p in model.parameters())
    if needed > available:
        raise AuditError(
            "load",
            f"{spec} has {count:,} parameters: weights and gradients take {needed / 2**30:.2f} GiB, "
            f"{available / 2**30:.2f} GiB are available\n  Give a smaller config: hf:path/to/config.json",
        )


def _available_bytes() -> int | None:
    """Memory that can still be had, caches included; all there is where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None

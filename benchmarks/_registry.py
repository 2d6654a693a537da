"""Small random models of every architecture that the installed transformers knows, by rule and not by list.

`names()` and `build(name, seed)` are what benchmarks/zoo.py asks of any collection. A model type's default config is
shrunk by the names of its attributes; several rules are tried, from tiny to nearly full width, until one gives a model
that builds, is small enough, and runs on an input that initaudit infers.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from initaudit.target.hub import transformers_factory
from initaudit.target.inputs import candidate_inputs

LARGEST = 60_000_000  # parameters of a model that still counts as small
MODULES = 4000  # a model with more is deep, whatever its config says
VOCABULARY = 256
_NEVER = re.compile(
    r"feat_extract|label|ratio|dropout|kernel|stride|loss|cost|weight|theta|factor|token_id$|token_index$"
)
_TINY: tuple[tuple[str, int], ...] = (  # the first pattern that fits an attribute's name says how large it may be
    (r"vocab_size$|vocabulary_size$", VOCABULARY),
    (r"(expert|tok).*(per_tok|top_?k)|top_?k_group|^n_group$|moe_top_?k", 2),
    (r"experts?$|_experts_", 4),
    (r"(layers|layer|depth|blocks)$|_layers_|^num_(hidden_)?layers", 2),
    (r"(key_value|kv)_heads$|num_groups$|n_groups$", 2),
    (r"heads?$|attention_heads", 4),
    (r"head_dim$|dim_head$|d_kv$|dim_per_head$|lora_rank$|state_size$|d_state$|rotary_dim$", 16),
    (r"intermediate|ffn|d_ff$|mlp_(dim|size)|d_inner|feed_?forward", 128),
    (r"image_size$|crop_size$|img_size$", 64),
    (r"max_(source_|target_|2d_)?positions?|position_embeddings$|n_positions$|max_seq_len|n_ctx$", 128),
    (
        r"hidden_size|hidden_dim|d_model|n_embd$|embed(ding)?_?(dim|size)|emb_dim|proj\w*_(dim|size)|^dim$|width$|lru",
        64,
    ),
    (r"num_queries$", 16),
)
_DEEPER = (_TINY[3][0], 4), *_TINY  # layers of several kinds take turns
_DEPTH = _TINY[:4]  # nearly full width: vocabulary, experts and depth only
_WIDTHS = re.compile("|".join(pattern for pattern, _ in (_TINY[6], _TINY[7], _TINY[10])))
Shrink = Callable[[str, int], int]


def names() -> list[str]:
    """Every model type of the library's registry."""
    return sorted(CONFIG_MAPPING)


def build(name: str, seed: int = 0) -> tuple[nn.Module, Any]:
    """A small model of that type with its own initialization, and the inputs (keywords, or positions) that it runs on.

    Raises ``LookupError`` with the reason of the first try when no rule gives one.
    """
    reason = ""
    tried: list[dict[str, Any]] = []
    for shrink in (_by(_TINY), _by(_DEEPER), _divided(8), _divided(4), _by(_DEPTH)):
        changes = _changes(CONFIG_MAPPING[name](), shrink)
        if changes in tried:
            continue
        tried.append(changes)
        try:
            model = _small(name, changes, seed)
            return model, _running_inputs(model, seed)
        except Exception as error:  # a config class, a model or its forward may refuse a size in any way
            reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise LookupError(reason)


def _small(name: str, changes: dict[str, Any], seed: int) -> nn.Module:
    config = CONFIG_MAPPING[name](**changes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        config.to_json_file(path)
        factory = transformers_factory(str(path))
    with torch.device("meta"):
        try:
            sketch = factory()
        except NotImplementedError:  # a constructor that reads values
            sketch = None
    if sketch is not None:
        size, modules = sum(p.numel() for p in sketch.parameters()), sum(1 for _ in sketch.modules())
        if size > LARGEST or modules > MODULES:
            raise ValueError(f"still has {size:,} parameters in {modules:,} modules")
    torch.manual_seed(seed)
    return factory().train()


def _running_inputs(model: nn.Module, seed: int) -> Any:
    first: Exception | None = None
    for inputs in candidate_inputs(model, seed=seed):
        if not (inputs.args or inputs.kwargs):
            continue
        try:
            with torch.no_grad():
                model(*inputs.args, **inputs.kwargs)
            return inputs.kwargs or inputs.args
        except Exception as error:
            first = first or error
    raise LookupError(f"runs on no inferred input: {first}")


def _by(limits: tuple[tuple[str, int], ...]) -> Shrink:
    patterns = [(re.compile(pattern), limit) for pattern, limit in limits]

    def shrink(name: str, value: int) -> int:
        return next((min(value, limit) for pattern, limit in patterns if pattern.search(name)), value)

    return shrink


def _divided(divisor: int) -> Shrink:
    """Widths divided alike, which keeps what divides what; heads, images and positions as they are."""
    shallow = _by(_DEPTH)

    def shrink(name: str, value: int) -> int:
        if _WIDTHS.search(name) and value >= 4 * divisor and value % divisor == 0:
            return value // divisor
        return shallow(name, value)

    return shrink


def _changes(config: Any, shrink: Shrink) -> dict[str, Any]:
    """The attributes of ``config``, nested configs included, that ``shrink`` makes smaller."""
    return dict(_changed(config.to_dict(), vars(config), shrink))


def _changed(values: dict[str, Any], attributes: dict[str, Any], shrink: Shrink) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        nested = attributes.get(name)
        if hasattr(nested, "to_dict"):
            inner = _changes(nested, shrink)
            kept = {"model_type": nested.model_type} if getattr(nested, "model_type", "") else {}
            yield name, {**kept, **inner}
        elif isinstance(value, int) and not isinstance(value, bool):
            if name.endswith(("token_id", "token_index")) and value >= VOCABULARY:
                yield name, VOCABULARY - 50 + value % 50
            elif not _NEVER.search(name) and (smaller := shrink(name, value)) < value:
                yield name, smaller
        elif name == "depths" and isinstance(value, (list, tuple)):
            yield name, [min(n, 2) for n in value]
        elif _WIDTHS.search(name) and _are_widths(value) and shrink(name, 4096) < 4096:
            yield name, [n // 4 if n > 32 else n for n in value]


def _are_widths(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(n, int) and n % 8 == 0 for n in value)

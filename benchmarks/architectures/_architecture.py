"""One architecture of the collection: its classes in transformers, how its config is shrunk, what it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from architectures._inputs import Draw

Overrides = Mapping[str, object]
InputMaker = Callable[[Draw, Any], dict[str, Any]]
"""From random numbers and the model's config to the keyword arguments of ``forward``."""

# What configs call the number of blocks in a stack, and, with stages of their own, the number per stage.
_STACKS = frozenset(
    "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers num_decoder_layers"
    " encoder_num_hidden_layers decoder_num_hidden_layers pred_num_hidden_layers l_layers r_layers x_layers"
    " num_self_attends_per_block num_blocks".split()
)
_STAGES = frozenset(("depths", "depth", "block_sizes", "stage_num_blocks", "n_attn_blocks"))
_KINDS_IN_TURN = frozenset(("layer_types", "layers_block_type"))


@dataclass(frozen=True)
class Part:
    """A config inside another one: the name of its class, and what differs from its default."""

    config: str
    overrides: Overrides


@dataclass(frozen=True)
class Architecture:
    """Names of the config and model classes in transformers, what differs from the default config, and the inputs."""

    config: str
    model: str
    overrides: Overrides
    inputs: InputMaker
    trains: bool = True  # False where the forward pass in training mode demands targets that no input maker can draw

    def build(self, seed: int, depth: int | None) -> tuple[nn.Module, dict[str, Any]]:
        """The model with the library's own random weights, and its inputs; ``depth`` blocks in every stack if given.

        Raises ``LookupError`` when the installed transformers lacks one of the classes.
        """
        overrides = self.overrides if depth is None else deepened(self.overrides, depth)
        torch.manual_seed(seed)
        config = _configured(self.config, overrides)
        model: nn.Module = _class(self.model)(config)
        return model.train(self.trains), self.inputs(Draw(seed), config)


def deepened(overrides: Overrides, depth: int) -> Overrides:
    """``overrides`` with ``depth`` blocks in every stack and stage that they size, nested configs included.

    Sizes that are left to the library's default stay: the collection names the depth wherever a config has one.
    """
    return {name: _deeper(name, value, depth) for name, value in overrides.items()}


def _deeper(name: str, value: object, depth: int) -> object:
    if isinstance(value, Part):
        return Part(value.config, deepened(value.overrides, depth))
    if isinstance(value, dict):
        return deepened(value, depth)
    if name in _STACKS:
        return depth
    if isinstance(value, list) and name in _STAGES:
        return [depth] * len(value)
    if isinstance(value, list) and name in _KINDS_IN_TURN:
        return [value[i % len(value)] for i in range(depth)]
    if isinstance(value, list) and name == "attention_types":  # GPT-Neo: the kinds in turn, and how many times
        return [[_deeper("layer_types", kinds, depth), 1] for kinds, _ in value]
    return value


def _configured(name: str, overrides: Overrides) -> Any:
    values = {
        key: _configured(value.config, value.overrides) if isinstance(value, Part) else value
        for key, value in overrides.items()
    }
    return _class(name)(**values)


def _class(name: str) -> Any:
    found = getattr(transformers, name, None)
    if found is None:
        raise LookupError(f"transformers {transformers.__version__} has no {name}")
    return found

"""Architectures of transformers with small random configs, each with an input that it runs on: a zoo to audit.

One file per family holds a table from the name to the classes, what differs from their default config, and the maker
of the inputs. Sizes are small, so that the whole collection builds and runs in two minutes on one core; the weights
are the library's own draws, and nothing is downloaded. Importing it imports transformers.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from architectures import (
    audio,
    causal_lms,
    dense_vision,
    multimodal,
    seq2seq,
    state_space,
    text_encoders,
    time_series,
    video,
    vision,
)
from architectures._architecture import Architecture

FAMILIES: dict[str, dict[str, Architecture]] = {
    "text encoder": text_encoders.ARCHITECTURES,
    "causal language model": causal_lms.ARCHITECTURES,
    "state space": state_space.ARCHITECTURES,
    "encoder-decoder": seq2seq.ARCHITECTURES,
    "vision": vision.ARCHITECTURES,
    "dense vision": dense_vision.ARCHITECTURES,
    "video": video.ARCHITECTURES,
    "multimodal": multimodal.ARCHITECTURES,
    "audio": audio.ARCHITECTURES,
    "series": time_series.ARCHITECTURES,
}
_FAMILY_OF = {name: family for family, table in FAMILIES.items() for name in table}


def names() -> list[str]:
    """Every architecture, family by family."""
    return list(_FAMILY_OF)


def family(name: str) -> str:
    """The family that ``name`` belongs to. Raises ``KeyError`` for a name that is not in the collection."""
    return _FAMILY_OF[name]


def build(name: str, seed: int = 0, depth: int | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """A small model with its own random initialization, in training mode, and the keyword arguments it runs on.

    ``depth`` puts that many blocks into every stack that the table sizes (two by default, one per stage of a
    convolutional network); with four there is a majority to differ from. One seed gives the same weights and inputs.
    Raises ``KeyError`` for a name that is not in the collection, ``LookupError`` when the installed transformers lacks
    its classes.
    """
    return FAMILIES[_FAMILY_OF[name]][name].build(seed, depth)

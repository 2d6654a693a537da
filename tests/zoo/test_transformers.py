"""Architectures of transformers, small, as their authors initialize them: healthy, and no warning."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initaudit

transformers: Any = pytest.importorskip("transformers", minversion="5")  # whose configs the collection names

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers says of its own deprecations

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = (
    "albert bert deberta-v2 distilbert electra roberta bloom gemma gpt2 llama mistral mixtral opt phi qwen2_moe mamba"
    " bart t5 convnext deit dinov2 regnet resnet swin vit segformer clip wav2vec2 whisper"
).split()


@pytest.fixture
def architectures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("architectures")


def passes_without_alarm(model: nn.Module, inputs: Any) -> None:
    report = initaudit.audit(model, inputs)
    assert not [(f.severity.value, f.code, f.fqn, f.message) for f in report.findings if f.severity.value != "note"]
    assert report.verdict == "pass"
    used = {layer.weight.fqn for layer in report.layers}
    matrices = {p.fqn for p in report.trace.parameters if len(p.shape) >= 2}  # type: ignore[union-attr]
    assert len(used & matrices) >= 0.5 * len(matrices)


@pytest.mark.parametrize("name", NAMES)
def test_default_initialization_raises_no_alarm(architectures: Any, name: str) -> None:
    passes_without_alarm(*architectures.build(name))


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_nor_does_it_with_twice_the_blocks(architectures: Any, name: str) -> None:
    passes_without_alarm(*architectures.build(name, depth=4))


def test_a_detector_is_healthy_at_the_width_that_its_weights_of_std_002_are_meant_for(architectures: Any) -> None:
    detr = architectures.dense_vision.detector("Detr", d_model=256, encoder_layers=2, decoder_layers=2)
    passes_without_alarm(*detr.build(0, None))


def test_the_alarm_is_not_merely_off(architectures: Any) -> None:
    """The same GPT-2 with one layer drawn too large is not let pass."""
    model, inputs = architectures.build("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.fill_(0.3)
    report = initaudit.audit(model, inputs)
    assert any(f.fqn == "transformer.h.1.mlp.c_fc" and f.severity.value != "note" for f in report.findings)

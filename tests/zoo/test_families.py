"""The hand-written families of the benchmarks: one seed is one model, and the small ones raise no alarm."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

import initaudit
from initaudit import Severity

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
# Those that are audited in a fraction of a second; benchmarks/families.py audits them all.
SMALL = (
    "VGG-16", "U-Net", "MLP-Mixer", "DiT", "Llama", "mixture of experts", "GRU seq2seq", "Fixup ResNet",
    "ReZero transformer", "SkipInit", "SELU", "SIREN", "highway", "LoRA on an MLP", "LoRA merged, A zero", "ControlNet",
    "hypernetwork", "VQ-VAE", "RealNVP", "GCN", "GIN", "PointNet", "two towers",
)  # fmt: skip


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("_models")


def test_there_are_enough(families: Any) -> None:
    assert len(families.names()) >= 45
    assert set(SMALL) <= set(families.names())


@pytest.mark.parametrize("name", SMALL)
def test_a_family_at_its_published_initialization_raises_no_alarm(families: Any, name: str) -> None:
    report = initaudit.audit(*families.build(name))
    assert [(f.code, f.fqn, f.message) for f in report.findings if f.severity is not Severity.NOTE] == []


def test_one_seed_is_one_model_and_one_input(families: Any) -> None:
    model, inputs = families.build("RealNVP", seed=3)
    again, same = families.build("RealNVP", seed=3)
    other, _ = families.build("RealNVP", seed=4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert torch.equal(inputs, same)


def test_zeros_that_are_meant_are_named_in_a_note(families: Any) -> None:
    report = initaudit.audit(*families.build("RealNVP"))
    notes = {f.fqn: f.message for f in report.findings if f.code == "IA304"}
    assert "a gate of zeros" in notes["couplings.0.net.4"]

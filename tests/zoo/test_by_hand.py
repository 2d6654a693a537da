"""No alarm on healthy models: written by hand, over several seeds; and the command on a file with three of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import initaudit
from tests.zoo import models


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def ids(*shape: int, below: int = 50) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(6))


INPUTS: dict[str, tuple[Tensor, ...]] = {
    "VGG": (noise(8, 3, 32, 32),),
    "ResNet": (noise(8, 3, 32, 32),),
    "UNet": (noise(4, 3, 32, 32),),
    "Mixer": (noise(8, 3, 32, 32),),
    "Generator": (noise(8, 64),),
    "VAE": (noise(32, 64),),
    "Seq2Seq": (ids(8, 10), ids(8, 7)),
    "Adapted": (noise(8, 5, 48),),
    "ReZero": (noise(32, 64),),
    "DiT": (noise(8, 9, 12), torch.arange(8) * 100.0),
    "SIREN": (torch.rand(256, 2, generator=torch.Generator().manual_seed(7)) * 2 - 1,),
    "NFNet": (noise(8, 3, 16, 16),),
    "SelfNormalizing": (noise(64, 128),),
    "Fixup": (noise(32, 64),),
    "CharacterLSTM": (ids(8, 12),),
    "PostNormTransformer": (ids(8, 10), ids(8, 7)),
    "Actor": (noise(32, 17),),
    "GraphNet": (noise(40, 32),),
}


def alarms(report: initaudit.Report) -> list[tuple[str, str, str, str]]:
    return [(f.severity.value, f.code, f.fqn, f.message) for f in report.findings if f.severity.value != "note"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", INPUTS)
def test_a_healthy_model_raises_no_alarm(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    report = initaudit.audit(getattr(models, name)(), INPUTS[name], seed=seed)
    assert not alarms(report)
    assert report.verdict == "pass"
    assert not report.trace.uncalled  # type: ignore[union-attr]


FILE = """
from tests.zoo.models import VAE, Actor, SelfNormalizing


def make_actor():
    return Actor()


def make_vae():
    return VAE()


def make_self_normalizing():
    return SelfNormalizing()
"""


def test_the_command_passes_a_file_of_healthy_models(tmp_path: Path) -> None:
    path = tmp_path / "healthy.py"
    path.write_text(FILE)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "initaudit", str(path), "--format", "json", "--fail-on", "warning"],
        cwd=root, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["summary"] == {"passed": 3, "failed": 0, "errors": 0, "findings": document["summary"]["findings"]}
    assert document["summary"]["findings"]["error"] == document["summary"]["findings"]["warning"] == 0
    assert {audit["target"].rpartition("::")[2] for audit in document["audits"]} == {
        "make_actor",
        "make_vae",
        "make_self_normalizing",
    }

"""How benchmarks/peers.py counts what tools say, and that its networks are what they are said to be."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

import initaudit

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("peers")


def answered(peers: Any, **said: list[list[str]] | str) -> Any:
    """A peer that said nothing but this, by the beginning of a network's name; a text is a crash."""
    answers = {}
    for name in peers.ALL:
        found = next((value for start, value in said.items() if name.startswith(start)), [])
        crash = isinstance(found, str)
        answers[name] = peers.Answer(name, [] if crash else found, found if crash else "")
    return peers.Peered(peers.Peer("one"), answers)


def test_the_networks_are_twenty_layers_deep_and_six_of_fourteen_are_good(peers: Any) -> None:
    assert (len(peers.NETWORKS), sum(n.good for n in peers.NETWORKS)) == (14, 6)
    assert all(not n.good for n in peers.MORE)
    made = importlib.import_module("_peers.networks").made
    model, x, y = made("F.relu, He")
    assert (len(model.layers), x.shape, len(y)) == (20, (64, 256), 64)
    assert model(x).shape == (64, 10)


@pytest.mark.parametrize("name", ["ReLU, He", "reused modules, He", "attention, torch default", "ReLU, one bias -10"])
def test_good_networks_are_good_and_a_fault_is_where_it_is_said_to_be(peers: Any, name: str) -> None:
    model, x, _ = importlib.import_module("_peers.networks").made(name)
    alarms = [f for f in initaudit.audit(model, x).findings if f.severity is not initaudit.Severity.NOTE]
    assert [f.fqn for f in alarms[:1]] == list(peers.ALL[name].guilty[:1])


def test_a_complaint_that_good_networks_get_too_is_no_detection(peers: Any) -> None:
    bad = peers.ALL["ReLU, bias -10"]
    found = answered(peers, **{"ReLU, bias": [["dead", "0", ""]]})
    assert found.cell(bad) == "found+layer"
    noisy = answered(peers, **{"ReLU, bias": [["dead", "0", ""]], "ReLU, He": [["dead", "4", ""]]})
    assert (noisy.cell(bad), noisy.cell(peers.ALL["ReLU, He"])) == ("missed", "1")


def test_layer_and_cure(peers: Any) -> None:
    bad = peers.ALL["ReLU, bias -10"]
    for layer, text, cell in (
        ("1", "use He initialization", "found+layer+cure"),
        ("10", "the gain is wrong", "found+cure"),
        ("", "something is wrong here", "found"),
    ):
        assert answered(peers, **{"ReLU, bias": [["dead", layer, text]]}).cell(bad) == cell


def test_what_a_spelling_does_to_a_peer(peers: Any) -> None:
    pair = peers.SPELLINGS["F.relu"]
    plain = {"ReLU, bias": [["dead", "0", ""]]}
    assert answered(peers, **plain).survives(*pair) == "blind"
    assert answered(peers).survives(*pair) == "missed"
    assert answered(peers, **plain, **{"F.relu, bias": [["dead", "", ""]]}).survives(*pair) == "yes"
    assert answered(peers, **plain, **{"F.relu, He": "RuntimeError"}).survives(*pair) == "crash"


def test_a_peer_that_cannot_be_installed_is_told(
    peers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(peer: Any, folder: Path) -> Path:
        raise subprocess.CalledProcessError(1, "pip", stderr="trying\nERROR: no such package\n")

    monkeypatch.setattr(peers, "python_of", fail)
    peers.main(["--peers", "torchlens", "--environments", str(tmp_path)])
    out = capsys.readouterr().out
    assert "torchlens could not be asked: ERROR: no such package" in out
    assert out.splitlines()[-1] == "peers: none could be asked"

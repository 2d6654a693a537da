"""What is read of a checkpoint file, by which names and in which order, and what is said of the rest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from initaudit.choices import is_checkpoint
from initaudit.errors import AuditError, UsageError
from initaudit.probe.checkpoint import in_order, read_tensors

W = torch.randn(8, 8)


def read(path: Path) -> dict[str, Tensor | str]:
    return dict(read_tensors(str(path)))


def of(content: Any, tmp_path: Path) -> dict[str, Tensor | str]:
    torch.save(content, tmp_path / "m.pt")
    return read(tmp_path / "m.pt")


def test_endings() -> None:
    assert all(map(is_checkpoint, ["m.pt", "M.PT", "m.pth.tar", "m.safetensors", "m.bin.index.json"]))
    assert not any(map(is_checkpoint, ["model.py", "m.tar", "config.json", "hf:gpt2"]))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"w": W}, {"w"}),
        ({0: W}, {"0"}),
        ({"model": {"encoder": {"w": W}, "step": torch.tensor(1.0)}}, {"encoder.w", "step"}),
        ({"loss": torch.tensor(1.0), "generator": {"w": W}}, {"loss", "generator.w"}),
        ({"params_ema": {"w": W}}, {"params_ema.w"}),
        ({"module": {"w": W}, "epoch": 3}, {"w"}),
        ({"state_dict": {"w": W}, "ema": {"w": W}}, {"w", "ema.w"}),
        ({"model": {"depth": 3}, "net": {"w": W}}, {"net.w"}),
    ],
)
def test_tensors_are_read_wherever_they_lie_by_name(content: Any, names: set[str], tmp_path: Path) -> None:
    found = of(content, tmp_path)
    assert set(found) == names
    assert all(isinstance(value, Tensor) for value in found.values())


def test_what_is_passed_over_is_said_in_one_line_each(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": W, "exp_avg_sq": W}}, "param_groups": [{"lr": 0.1}]}
    found = of({"g": {"w": W}, "optim_g": optimizer, "history": [W]}, tmp_path)
    assert isinstance(found.pop("g.w"), Tensor)
    assert found == {"optim_g": "2 tensors of an optimizer, not read", "history": "1 tensor of a list, not read"}
    found = of({"state_dict": {"w": W}, "optimizer_states": [optimizer], "scores": W, "epoch": 3}, tmp_path)
    assert isinstance(found.pop("w"), Tensor)
    assert found == {
        "optimizer_states": "2 tensors beside 'state_dict', not read",
        "scores": "1 tensor beside 'state_dict', not read",
    }


def test_a_file_without_named_tensors_names_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no tensor by name; it is a dict with the keys 'epoch', 'args', expected"):
        of({"epoch": 3, "args": {"lr": 0.1}}, tmp_path)
    with pytest.raises(AuditError, match="no tensor by name; it is a list, expected"):
        of([W], tmp_path)
    loop: dict[str, Any] = {}
    loop["itself"] = loop
    with pytest.raises(AuditError, match="its mappings hold each other"):
        of(loop, tmp_path)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>", "it starts with '<!DOCTYPE html>'"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "`git lfs pull`"),
    ],
)
def test_a_file_of_another_kind(start: bytes, expected: str, tmp_path: Path) -> None:
    for name in ("m.pt", "m.safetensors"):
        if name.endswith("safetensors"):
            pytest.importorskip("safetensors")
        (tmp_path / name).write_bytes(start)
        with pytest.raises(AuditError, match=expected):
            read(tmp_path / name)


def test_a_refused_class_is_named_and_nothing_unsafe_advised(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"more than tensors \(argparse\.Namespace") as caught:
        of({"state_dict": {"w": W}, "args": argparse.Namespace(lr=1)}, tmp_path)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("new", [True, False])
def test_a_damaged_file_is_an_error_whatever_breaks(new: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": W, "v": W}, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    said = []
    for place in range(4, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read(path)
        except AuditError as error:
            said.append(str(error))
    assert len(said) > 3
    assert all("m.pt" in message and "weights_only" not in message for message in said)


def test_folders_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "d.ckpt").mkdir()
    with pytest.raises(UsageError, match=r"d\.ckpt is a folder"):
        read(tmp_path / "d.ckpt")


def test_numbers_are_in_their_own_order() -> None:
    assert in_order(["h.10.w", "h.2.w", "h.2.b", "emb"]) == ["emb", "h.2.b", "h.2.w", "h.10.w"]


class TestShards:
    """An index and what its shards really hold."""

    @pytest.fixture
    def index(self, tmp_path: Path) -> Path:
        for number in (2, 10):
            torch.save({f"h.{number}": W, "extra": W}, tmp_path / f"m-{number}.bin")
        path = tmp_path / "m.bin.index.json"
        path.write_text(json.dumps({"weight_map": {"h.10": "m-10.bin", "h.2": "m-2.bin", "extra": "m-2.bin"}}))
        return path

    def test_what_the_index_does_not_list_is_not_judged(self, index: Path) -> None:
        found = list(read_tensors(str(index)))
        assert [name for name, value in found if isinstance(value, Tensor)] == ["h.2", "extra", "h.10"]
        assert found[-1] == ("extra", "in m-10.bin, where m.bin.index.json does not list it")

    def test_what_a_shard_lacks_is_an_error(self, index: Path) -> None:
        index.write_text(json.dumps({"weight_map": {"h.2": "m-2.bin", "lost": "m-2.bin"}}))
        with pytest.raises(AuditError, match=r"m-2\.bin lacks 1 tensor that m\.bin\.index\.json lists there: lost"):
            read(index)

    @pytest.mark.parametrize("place", [3, None, ["m-2.bin"]])
    def test_an_index_of_something_else(self, index: Path, place: Any) -> None:
        index.write_text(json.dumps({"weight_map": {"h.2": place}}))
        with pytest.raises(AuditError, match="is no index of shards"):
            read(index)

"""What [tool.initaudit] may hold, where it is found, and what is said of its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from initaudit.errors import UsageError
from initaudit.settings import Settings, is_path, load


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_file_the_defaults_hold() -> None:
    assert load() == Settings()


def test_every_key_in_both_spellings(tmp_path: Path) -> None:
    write(
        tmp_path / "pyproject.toml",
        """
        [tool.initaudit]
        targets = ["model.py::Net", "package.module:build"]
        input = "32x10"
        loss = "losses:mse"
        device = "cuda:1"
        dtype = "bfloat16"
        seed = 3
        seeds = 5
        format = "json"
        output = "out.json"
        verbose = 1
        quiet = 2
        no-color = true
        select = ["IA1", "dead-units"]
        ignore = "IA301"
        fail_on = "warning"
        exitfirst = true
        timeout = 30
        """,
    )
    assert load() == Settings(
        targets=("model.py::Net", "package.module:build"),
        input=("32x10",),
        loss="losses:mse",
        device="cuda:1",
        dtype="bfloat16",
        seed=3,
        seeds=5,
        format="json",
        output="out.json",
        verbose=1,
        quiet=2,
        no_color=True,
        select=("IA1", "dead-units"),
        ignore=("IA301",),
        fail_on="warning",
        exitfirst=True,
        timeout=30.0,
    )


def test_the_nearest_file_with_the_table_wins(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.initaudit]\nseed = 1")
    write(tmp_path / "a" / "pyproject.toml", "[tool.initaudit]\nseed = 2")
    write(tmp_path / "a" / "b" / "pyproject.toml", "[project]\nname = 'b'")
    assert load(start=tmp_path / "a" / "b").seed == 2


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
        targets = ["src/model.py::Net", "pkg.module:Net", "models"]
        input = ["@batch.pt", "mask=@mask.npy", "8x4"]
        output = "report.json"
    """
    write(tmp_path / "pyproject.toml", "[tool.initaudit]" + text)
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    found = load()
    assert found.targets == ("model.py::Net", "pkg.module:Net", "../models")
    assert found.input == ("@../batch.pt", "mask=@../mask.npy", "8x4")
    assert found.output == "../report.json"


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    model = tmp_path / "model.py"
    write(tmp_path / "pyproject.toml", f"[tool.initaudit]\ntargets = ['{model}']")
    assert load().targets == (str(model),)


@pytest.mark.parametrize("text", ["[tool.initaudit]\nseed = 7", "seed = 7"])
def test_a_file_given_by_name_may_be_plain(tmp_path: Path, text: str) -> None:
    write(tmp_path / "audit.toml", text)
    write(tmp_path / "pyproject.toml", "[tool.initaudit]\nseed = 1")
    assert load("audit.toml").seed == 7


def test_a_pyproject_given_by_name_needs_no_table(tmp_path: Path) -> None:
    write(tmp_path / "x" / "pyproject.toml", "[project]\nname = 'x'")
    assert load("x/pyproject.toml") == Settings()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sede = 1", "unknown key 'sede' in the initaudit settings; did you mean seed?"),
        ("collect-only = true", "unknown key 'collect-only' in the initaudit settings; expected one of device, dtype"),
        ("seed = '1'", "seed = '1', expected a whole number, 0 or more"),
        ("seed = true", "seed = True, expected a whole number, 0 or more"),
        ("seeds = 0", "seeds = 0, expected a whole number, 1 or more"),
        ("seed = -1", "seed = -1, expected a whole number, 0 or more"),
        ("timeout = 0", "timeout = 0, expected a number of seconds above 0"),
        ("timeout = inf", "timeout = inf, expected a number of seconds above 0"),
        ("no-color = 1", "no-color = 1, expected true or false"),
        ("loss = 1", "loss = 1, expected a string"),
        ("input = [1]", "input = [1], expected a string or a list of strings"),
        ("select = 1", "select = 1, expected a string or a list of strings"),
        ("device = 'gpu'", "device = 'gpu', expected auto, cpu, cuda, cuda:N or mps"),
        ("dtype = 'float8'", "dtype = 'float8', expected one of float32, bfloat16, float16, float64"),
        ("format = 'xml'", "format = 'xml', expected one of table, json"),
        ("format = ['json']", "format = ['json'], expected one of table, json"),
        ("fail_on = 'fatal'", "fail_on = 'fatal', expected one of error, warning, note, never"),
        ("fail_on = 'note'\nfail-on = 'note'", "'fail-on' is set twice, once with - and once with _; keep one"),
    ],
)
def test_a_faulty_value_is_named_with_file_key_and_what_was_expected(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "pyproject.toml", f"[tool.initaudit]\n{line}")
    with pytest.raises(UsageError) as caught:
        load()
    assert str(caught.value).startswith(f"{path}: {message}")


def test_malformed_toml_names_the_file_and_the_place(tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", "[tool.initaudit\nseed = 1")
    with pytest.raises(UsageError, match=r"is not valid TOML: .*line 1") as caught:
        load()
    assert str(path) in str(caught.value)


def test_a_table_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool]\ninitaudit = 3")
    with pytest.raises(UsageError, match=r"tool\.initaudit is 3, expected a table \[tool\.initaudit\]"):
        load()


def test_a_missing_file_given_by_name() -> None:
    with pytest.raises(UsageError, match=r"cannot read the configuration file none\.toml: No such file"):
        load("none.toml")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("model.py", True),
        ("model.py::Net", True),
        ("models", True),
        ("a/b", True),
        ("module:attr", False),
        ("package.module:attr", False),
        ("timm:resnet/50", False),
        ("hf:configs/gpt2.json", False),
    ],
)
def test_is_path(target: str, expected: bool) -> None:
    assert is_path(target) is expected


def test_settings_hold_what_the_options_are_named() -> None:
    from initaudit.cli import main

    options: dict[str, Any] = {p.name: p for p in main.default.params}
    missing = options.keys() - Settings.__dataclass_fields__.keys()
    assert missing == {"config", "version", "keyword", "collect_only"}
    assert Settings.__dataclass_fields__.keys() <= options.keys()

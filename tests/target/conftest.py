import random
import sys
from pathlib import Path
from textwrap import dedent

import pytest


@pytest.fixture(autouse=True)
def _fresh_process_state(monkeypatch, tmp_path):
    """Every test runs in its own folder and leaves no trace in sys.path, sys.modules and the generators."""
    path, modules, state = sys.path[:], dict(sys.modules), random.getstate()
    monkeypatch.chdir(tmp_path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if str(tmp_path) in str(getattr(sys.modules[name], "__dict__", {}).get("__file__")):
            del sys.modules[name]
    random.setstate(state)


@pytest.fixture
def write(tmp_path):
    """write("model.py", source) puts a file below the current folder."""

    def put(name: str, source: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source).lstrip("\n"), encoding="utf-8")
        return path

    return put

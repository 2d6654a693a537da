import importlib.util
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """The hand-made records of ``factories.py``."""
    spec = importlib.util.spec_from_file_location("report_factories", Path(__file__).with_name("factories.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Screen:
    """A console of fixed width without colour, and what was printed on it."""

    def __init__(self, width: int, encoding: str = "utf-8") -> None:
        self._bytes = BytesIO()
        file = TextIOWrapper(self._bytes, encoding=encoding, write_through=True)
        self.console = Console(width=width, color_system=None, file=file, legacy_windows=False)

    @property
    def text(self) -> str:
        return self._bytes.getvalue().decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture
def screen() -> type[Screen]:
    return Screen

"""Importing a user's file as ``python path/to/file.py`` would, except that it is never ``__main__``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from initaudit.errors import AuditError
from initaudit.target.frames import is_library, user_error

DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")  # package.module:attribute


@dataclass(eq=False)
class Scope:
    """What a file sees when it imports: its folder on ``sys.path`` and its neighbours in ``sys.modules``.

    ``root`` goes first on ``sys.path``; for a file in a package that is the folder above the package, and ``folder``,
    the file's own, goes last. Two files in different folders may each have a ``layers.py`` beside them, so the modules
    of a scope are kept here and put back whenever it is entered.
    """

    root: Path
    folder: Path
    modules: dict[str, ModuleType] = field(default_factory=dict)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make this scope the current one; it stays so afterwards, because a model may import when it runs.

        If the body raises, ``sys.path`` and ``sys.modules`` are as before.
        """
        path, modules = sys.path[:], dict(sys.modules)
        root, folder = str(self.root), str(self.folder)
        sys.path[:] = [root, *(entry for entry in sys.path if entry not in (root, folder))]
        if folder != root:
            sys.path.append(folder)
        for name in self._displaced():
            del sys.modules[name]
        sys.modules.update(self.modules)
        try:
            yield
        except BaseException:
            sys.path[:] = path
            for name in [name for name, module in sys.modules.items() if name not in modules and self._owns(module)]:
                del sys.modules[name]
            sys.modules.update(modules)
            raise
        self.modules = {name: module for name, module in sys.modules.items() if self._owns(module)}

    def _owns(self, module: ModuleType) -> bool:
        # String prefixes, because thousands of modules are looked at.
        file = _file_of(module)
        return file is not None and file.startswith(str(self.root) + os.sep) and not is_library(file)

    def _displaced(self) -> list[str]:
        """Names in ``sys.modules`` that another folder's files hold and a file of this scope would mean otherwise."""
        local = {entry.stem if entry.suffix == ".py" else entry.name for entry in self.root.iterdir()} - {"__main__"}
        foreign = {
            name
            for name, module in list(sys.modules.items())
            if name in local
            and (file := _file_of(module)) is not None
            and not Path(os.path.realpath(file)).is_relative_to(self.root)
            and not is_library(file)
        }
        return [name for name in sys.modules if name.partition(".")[0] in foreign]


def _file_of(module: ModuleType) -> str | None:
    # vars() and not getattr: lazy modules import themselves when asked for an attribute.
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return file if isinstance(file, str) else None


def import_file(path: Path, shown: str) -> tuple[ModuleType, Scope]:
    """Import a file; one inside a package is imported as part of it, so that relative imports work.

    ``shown`` is the path as the user gave it. Raises :class:`AuditError` with stage "load" whatever the file does.
    """
    path = path.resolve()
    root, names = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, names = root.parent, [root.name, *names]
    if names[-1] == "__init__":
        names = names[:-1] or names
    scope = Scope(root, path.parent)
    with _as_script(shown), _explained(f"could not import {shown}", shown), scope.entered():
        if len(names) > 1 or path.name == "__init__.py":
            return importlib.import_module(".".join(names)), scope
        return _import_alone(path), scope


def import_dotted(name: str) -> ModuleType:
    """Import ``package.module`` with the current folder first on ``sys.path``, as ``python -m`` would."""
    scope = Scope(Path.cwd(), Path.cwd())
    with _explained(f"could not import {name}", name), scope.entered():
        return importlib.import_module(name)


def _import_alone(path: Path) -> ModuleType:
    """Run a file that is in no package, under its own name unless a library has that name."""
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and os.path.realpath(_file_of(loaded) or "") == str(path):
        return loaded  # a neighbour imported it already; running it again would give every class a twin
    if loaded is not None or name in sys.stdlib_module_names or name == "__main__":
        name = f"{name}_model_file"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


@contextmanager
def _as_script(shown: str) -> Iterator[None]:
    """``sys.argv`` as ``python file.py`` sets it, so that module-level argument parsing sees its defaults."""
    argv = sys.argv
    sys.argv = [shown]
    try:
        yield
    finally:
        sys.argv = argv


@contextmanager
def _explained(summary: str, shown: str) -> Iterator[None]:
    """Turn whatever an import raises into one :class:`AuditError`; only an interrupt passes."""
    try:
        yield
    except (KeyboardInterrupt, AuditError):
        raise
    except BaseException as error:
        raise user_error("load", summary, error, _advice(error, shown)) from error


def _advice(error: BaseException, shown: str) -> str:
    if isinstance(error, SyntaxError):
        return "Correct the syntax there; the file must run under this Python."
    if isinstance(error, SystemExit):
        return 'The file ends the program when it is imported: move that under `if __name__ == "__main__":`.'
    if isinstance(error, ImportError) and "relative import" in str(error):
        return f"Relative imports need a package: put an __init__.py beside {shown}, or import by name."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Install {error.name.partition('.')[0]} in this environment, or run where it can be imported."
    return f'Make {shown} importable: what it does when run belongs under `if __name__ == "__main__":`.'

"""From what stands on the command line to the models it means."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from initaudit.errors import AuditError, UsageError
from initaudit.probe.checkpoint import checkpoints_in
from initaudit.target.collecting import Survey, required_arguments, survey
from initaudit.target.frames import user_error
from initaudit.target.hub import check_memory, timm_factory, transformers_factory
from initaudit.target.importing import DOTTED, Scope, import_dotted, import_file

_TEST_FILE = re.compile(r"test_.*\.py|.*_test\.py")
_NEVER_MODELS = frozenset({"setup.py", "conftest.py", "noxfile.py"})
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages"})
_HINTS_OF_A_MODEL = re.compile(
    r"\b(torch|nn|Module|lightning|pytorch_lightning|transformers|timm)\b|^\s*from \.", re.MULTILINE
)


@dataclass(frozen=True)
class Target:
    """One model to audit.

    ``id`` names it as a user would (``"model.py::Net"``) and ``name`` is its last part. ``is_factory`` says that every
    :meth:`build` makes a new model (False for an instance). ``module`` is the namespace in which ``initaudit_inputs``
    and ``initaudit_loss`` are looked up, if there is one. ``check`` raises :class:`AuditError` for a model that is too
    large to be built as a whole.
    """

    id: str
    name: str
    factory: Callable[[], nn.Module]
    is_factory: bool = True
    module: ModuleType | None = None
    check: Callable[[], None] = lambda: None

    def build(self) -> nn.Module:
        """Make the model. Raises :class:`AuditError` (stage "load") that names the line of the user's code."""
        try:
            self.check()
            model: object = self.factory()
        except (AuditError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit() in a constructor included
            raise user_error("load", f"could not build {self.id}", error) from error
        if not isinstance(model, nn.Module):
            raise AuditError("load", f"{self.id} returned {type(model).__name__}, expected a torch.nn.Module")
        return model


def collect(spec: str) -> list[Target]:
    """The models that a spec means, in the order of the file; empty when a file or folder holds none.

    ``spec`` is ``model.py``, ``model.py::Name``, a folder, ``package.module:attr``, ``hf:ARCH_OR_CONFIG_JSON`` or
    ``timm:NAME``. Importing a file leaves its folder on ``sys.path``, as running it would. Raises :class:`UsageError`
    for a spec that means nothing and :class:`AuditError` (stage "load") when what it names cannot be loaded. In a
    folder a file that cannot be imported becomes a target whose :meth:`Target.build` raises.
    """
    if spec.startswith("hf:"):
        name = spec.removeprefix("hf:")
        factory = transformers_factory(name)
        return [Target(spec, name, factory, check=partial(check_memory, factory, spec))]
    if spec.startswith("timm:"):
        return [Target(spec, spec.removeprefix("timm:"), timm_factory(spec.removeprefix("timm:")))]
    location, *names = spec.split("::")
    if os.path.isdir(location) and not names:
        return _collect_folder(location)
    if "" in names:
        raise UsageError(f"{spec}: a name is missing after ::, expected e.g. {location}::Net")
    if os.path.isfile(location):
        if not location.endswith(".py"):
            raise UsageError(f"{location} is not a Python file; a target is a .py file or a folder of them")
        module, scope = import_file(Path(location), location)
        if names:
            return [_named(spec, module, names, location, scope)]
        return [
            Target(f"{location}::{c.name}", c.name, _within(scope, c.build), not c.is_instance, module)
            for c in _surveyed(module, location).models
        ]
    if DOTTED.fullmatch(spec):
        dotted, _, attribute = spec.partition(":")
        module = import_dotted(dotted)
        return [_named(spec, module, attribute.split("."), dotted, None)]
    raise UsageError(_no_such_path(location, spec))


def explain_nothing(spec: str) -> str:
    """Why :func:`collect` found nothing in a file or folder, and what to write so that it does."""
    if not os.path.isfile(spec):
        weights = checkpoints_in(Path(spec))
        return (
            f"no model in the Python files of {spec}\n"
            "  Collected are nn.Module instances, functions that return an nn.Module and nn.Module classes, "
            "if they need no argument."
        ) + (f"\n  To have the weights judged that are there: initaudit {weights[0]} --weights-only" if weights else "")
    module = import_file(Path(spec), spec)[0]
    found = _surveyed(module, spec)
    lines = [f"no model to audit in {spec}: no nn.Module instance, and no factory or class that needs no argument"]
    lines += [f"  {name} {reason}" for name, reason in found.passed_over.items()]
    needy = next((name for name, reason in found.passed_over.items() if reason.startswith("needs arguments")), None)
    if needy:
        example = _factory_example(needy, required_arguments(vars(module)[needy]))
        lines.append(f"  Write a factory without arguments, e.g.\n{example}")
    if found.callables:
        lines.append(f"  If a function there builds a model, name it: {spec}::{found.callables[0]}")
    return "\n".join(lines)


def _surveyed(module: ModuleType, location: str) -> Survey:
    try:
        return survey(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise user_error("load", f"could not look through {location}", error) from error


def _within(scope: Scope | None, factory: Callable[[], Any]) -> Callable[[], Any]:
    if scope is None:
        return factory

    def build() -> Any:
        with scope.entered():
            return factory()

    return build


def _collect_folder(folder: str) -> list[Target]:
    targets: list[Target] = []
    seen: set[int] = set()  # an instance that several files import is audited once
    for path in _python_files(Path(folder)):
        shown = str(path)
        try:
            found = collect(shown)
        except AuditError as error:
            if not _TEST_FILE.fullmatch(path.name):
                targets.append(Target(shown, path.name, _raising(error)))
            continue
        for target in found:
            value = getattr(target.module, target.name, None)
            if target.is_factory or id(value) not in seen:
                targets.append(target)
            seen.add(id(value))
    return targets


def _raising(error: AuditError) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        raise error

    return build


def _python_files(folder: Path) -> Iterator[Path]:
    """Python files below a folder that may hold a model, sorted; hidden folders and environments are left out."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _SKIPPED_FOLDERS
            and not os.path.exists(os.path.join(parent, name, "pyvenv.cfg"))
        )
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith(".") and name not in _NEVER_MODELS:
                path = Path(parent, name)
                if _may_hold_a_model(path):
                    yield path


def _may_hold_a_model(path: Path) -> bool:
    """Importing runs a file, so one that has no word of a model in it is only read."""
    try:
        return bool(_HINTS_OF_A_MODEL.search(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:  # the import will say why
        return True


def _named(spec: str, module: ModuleType, names: list[str], location: str, scope: Scope | None) -> Target:
    value: Any = module
    for depth, name in enumerate(names):
        owner = value
        try:
            value = getattr(owner, name)
        except AttributeError:
            where = "::".join([location, *names[:depth]])
            raise AuditError("load", _no_such_name(where, name, owner)) from None
    if isinstance(value, nn.Module):
        return Target(spec, names[-1], lambda: value, False, module)
    if isinstance(value, type):
        if not issubclass(value, nn.Module):
            raise AuditError("load", f"{spec} is a class but no subclass of torch.nn.Module")
        if value.forward is nn.Module.forward:
            raise AuditError("load", f"{spec} has no forward method, so there is nothing to run")
    elif not callable(value):
        raise AuditError(
            "load", f"{spec} is of type {type(value).__name__}, expected an nn.Module, a class or a factory"
        )
    if needed := required_arguments(value):
        raise AuditError(
            "load",
            f"{spec} needs arguments ({', '.join(needed)}) and is built without any\n"
            f"  Write a factory without arguments and name that, e.g.\n{_factory_example(names[-1], needed)}",
        )
    return Target(spec, names[-1], _within(scope, value), True, module)


def _factory_example(name: str, needed: list[str]) -> str:
    arguments = ", ".join(f"{argument}=..." for argument in needed)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    short = re.sub(r"^(build|make|create)_", "", snake)
    return f"    def build_{short}() -> nn.Module:\n        return {name}({arguments})"


def _no_such_name(where: str, name: str, owner: object) -> str:
    names = [known for known in dir(owner) if not known.startswith("_")]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"{where} has no {name}; did you mean {close[0]}?"
    models = [n for n in names if _is_model_like(getattr(owner, n, None))]
    return f"{where} has no {name}; " + (f"its models are {', '.join(models)}" if models else "it holds no model")


def _is_model_like(value: object) -> bool:
    return isinstance(value, nn.Module) or (isinstance(value, type) and issubclass(value, nn.Module))


def _no_such_path(location: str, spec: str) -> str:
    parent = Path(location).parent
    if os.path.isdir(location):
        return f"{spec}: {location} is a folder; name the file that holds {spec.rpartition('::')[2]}"
    entries = (
        {e.stem: e for e in sorted(parent.iterdir()) if e.suffix == ".py" or e.is_dir()} if parent.is_dir() else {}
    )
    close = difflib.get_close_matches(Path(location).stem, entries, n=1)
    if close:
        return f"no such file or folder: {location}; did you mean {entries[close[0]]}?"
    if not location.endswith(".py") and os.sep not in location:
        return (
            f"no such file or folder: {location}\n"
            "  A target is model.py, model.py::Name, a folder, package.module:attr, hf:ARCH or timm:NAME."
        )
    return f"no such file or folder: {location}"

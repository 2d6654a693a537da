"""Which names of a module are models: instances, factories without arguments, classes without arguments."""

from __future__ import annotations

import functools
import inspect
import random
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import nn

_FACTORY_NAME = re.compile(r"(build|make|create)_|get_model")
# Words in a name that say that calling the function would not give a model (and might download a data set).
_NOT_MODELS = {
    "args", "batch", "config", "criterion", "data", "dataloader", "dataloaders", "dataset", "datasets", "env", "figure",
    "loader", "loaders", "logger", "loss", "mask", "optimizer", "optimizers", "parser", "plot", "scheduler",
    "tokenizer", "vocab",
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A name that gives a model; ``value`` is the instance, the function or the class."""

    name: str
    value: Any

    @property
    def is_instance(self) -> bool:
        """Whether it is one model, already built."""
        return isinstance(self.value, nn.Module)

    def build(self) -> object:
        """The instance, or what the class or function gives: an ``nn.Module`` if it keeps its word."""
        return self.value if self.is_instance else self.value()


@dataclass
class Survey:
    """The models of a module, in definition order, and the names that look like models but are not: name to reason."""

    models: list[Candidate] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    callables: list[str] = field(default_factory=list)  # other functions that could be called without argument


def required_arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments without which ``function`` cannot be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins tell nothing
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]


def survey(module: ModuleType) -> Survey:
    """Find the models of a module; classes that are part of another model found are left out.

    What is part of what is known by building: last defined first, because a file defines the parts before the whole.
    Building leaves the random number generators as they were.
    """
    found = Survey()
    seen: set[int] = set()
    certain: set[str] = set()
    for name, value in list(vars(module).items()):
        if name.startswith("__") or id(value) in seen:
            continue
        reason = _judge(name, value, module, found)
        if reason is None:
            continue
        seen.add(id(value))
        if reason:
            found.passed_over[name] = reason
        else:
            found.models.append(Candidate(name, value))
            if isinstance(value, type) or _returns_module(value, module):
                certain.add(name)
    if not (len(found.models) == 1 and found.models[0].name in certain):
        _drop_parts(found, certain)
    return found


def _judge(name: str, value: object, module: ModuleType, found: Survey) -> str | None:
    """None for what is no model at all, ``""`` for a candidate, else why it is passed over."""
    if isinstance(value, nn.Module):
        return "" if next(value.parameters(), None) is not None else "has no parameters"
    if isinstance(value, type):
        return _judge_class(value, module) if issubclass(value, nn.Module) else None
    if not _is_function_of(value, module):
        return None
    assert callable(value)
    returns = _returns_module(value, module)
    named_so = bool(_FACTORY_NAME.match(name)) and _NOT_MODELS.isdisjoint(name.lower().split("_"))
    if returns or (returns is None and named_so):
        return f"needs arguments ({', '.join(needed)})" if (needed := required_arguments(value)) else ""
    if returns is None and not name.startswith("_") and name != "main" and not required_arguments(value):
        found.callables.append(name)
    return None


def _judge_class(cls: type[nn.Module], module: ModuleType) -> str | None:
    if cls.__module__ != module.__name__:
        return None
    if inspect.isabstract(cls):
        return "is abstract"
    if cls.forward is nn.Module.forward:
        return "has no forward method"
    needed = required_arguments(cls)
    return f"needs arguments ({', '.join(needed)})" if needed else ""


def _is_function_of(value: object, module: ModuleType) -> bool:
    if isinstance(value, functools.partial):
        return True
    is_function = isinstance(value, types.FunctionType) or hasattr(type(value), "cache_info")  # functools.lru_cache
    return (
        is_function
        and getattr(value, "__module__", None) == module.__name__
        and not inspect.iscoroutinefunction(value)
        and not inspect.isgeneratorfunction(value)
    )


def _returns_module(function: Callable[..., Any], module: ModuleType) -> bool | None:
    """Whether the return annotation is an ``nn.Module``; None without an annotation."""
    try:
        annotation = getattr(function, "__annotations__", {}).get("return", inspect.Signature.empty)
    except NameError:  # Python 3.14 evaluates on access, and a name may be imported for the type checker only
        return None
    if annotation is inspect.Signature.empty:
        return None
    return _is_module_type(annotation, vars(module))


def _is_module_type(annotation: Any, namespace: dict[str, Any]) -> bool:
    if isinstance(annotation, str):
        try:
            return _is_module_type(eval(annotation, dict(namespace)), namespace)
        except Exception:  # a name imported for the type checker only
            return annotation.strip("'\" ").rpartition(".")[2] == "Module"
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _is_module_type(typing.get_args(annotation)[0], namespace)
    if origin in (typing.Union, types.UnionType):
        return all(_is_module_type(part, namespace) for part in typing.get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, nn.Module)


def _drop_parts(found: Survey, certain: set[str]) -> None:
    """Take out classes that are a part of another model, what has no parameters, and functions that give no model."""
    classes = [c for c in found.models if isinstance(c.value, type)]
    others = [c for c in found.models if not isinstance(c.value, type)]
    used: set[type] = set()
    dropped: dict[str, str] = {}
    for candidate in others + classes[::-1]:
        if candidate.value in used:
            continue
        model = _built(candidate)
        if isinstance(model, nn.Module):
            if next(model.parameters(), None) is None:
                dropped[candidate.name] = "has no parameters"
            used.update(type(part) for part in model.modules() if part is not model or candidate in others)
        elif isinstance(model, NotImplementedError) and _is_subclassed(candidate, classes):
            dropped[candidate.name] = "is a base class (NotImplementedError)"
        elif not isinstance(model, BaseException) and candidate.name not in certain:
            dropped[candidate.name] = f"returns {type(model).__name__}, not an nn.Module"
    dropped.update((c.name, "is part of another model") for c in classes if c.value in used)
    found.models = [c for c in found.models if c.name not in dropped]
    found.passed_over.update(dropped)


def _built(candidate: Candidate) -> object:
    """What the candidate gives, or the exception: it stays a target then, and building that reports it."""
    try:
        with rng_preserved():
            return candidate.build()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too
        return error


def _is_subclassed(candidate: Candidate, classes: list[Candidate]) -> bool:
    return any(c is not candidate and issubclass(c.value, candidate.value) for c in classes)


@contextmanager
def rng_preserved() -> Iterator[None]:
    """Run user code and leave the generators of torch, ``random`` and numpy as they were."""
    python_state = random.getstate()
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    numpy_state = numpy_random.get_state() if numpy_random else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        if numpy_random:
            numpy_random.set_state(numpy_state)

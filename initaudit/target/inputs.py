"""The sample input of a model: where it comes from, how it is written, how it is moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from initaudit.errors import AuditError, UsageError
from initaudit.target.collecting import rng_preserved
from initaudit.target.frames import exception_text, user_error, user_location
from initaudit.target.infer import forward_parameters, how_to_give_inputs, inferred
from initaudit.target.spec import parse_input_spec
from initaudit.target.tree import map_tensors, summary


@dataclass(frozen=True, eq=False)
class Inputs:
    """What ``model(*args, **kwargs)`` is called with; ``source`` says in words where it came from."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    source: str = "audit(inputs=...)"

    def describe(self) -> str:
        """``"float32[32,64]"``; keyword arguments as ``"ids=int64[8,128]"``; nested ones summarised."""
        keyword = [f"{name}={summary(value)}" for name, value in self.kwargs.items()]
        return ", ".join([summary(value) for value in self.args] + keyword) or "no input"

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Inputs:
        """A copy on ``device``, by default where it is, floating tensors in ``dtype``; each is a detached clone.

        One tensor in two places stays one tensor, and a tensor that required a gradient still does.
        """
        copies: dict[int, Tensor] = {}

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in copies:
                wanted = dtype if tensor.is_floating_point() else None
                moved = tensor.detach().to(device=device, dtype=wanted or tensor.dtype, copy=True)
                copies[id(tensor)] = moved.requires_grad_(tensor.requires_grad)
            return copies[id(tensor)]

        return Inputs(map_tensors(self.args, move), map_tensors(self.kwargs, move), self.source)


def as_inputs(value: Any, source: str = "audit(inputs=...)", *, seed: int = 0, default_bound: int = 10) -> Inputs:
    """The file convention, which is also that of ``audit(inputs=...)``.

    A tuple holds positional arguments and a mapping with names for keys keyword arguments; anything else is one
    positional argument, a list included, because models take lists. A string, or a tuple or list of nothing but
    strings, is written input as for ``--input``. ``Inputs`` pass through. Raises
    :class:`UsageError` for a malformed one.
    """
    if isinstance(value, Inputs):
        return value
    if isinstance(value, str):
        return _from_specs([value], source, seed, default_bound)
    if isinstance(value, tuple | list) and value and all(isinstance(item, str) for item in value):
        return _from_specs(value, source, seed, default_bound)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return Inputs(value, {}, source)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return Inputs((), dict(value), source)
    if type(value).__module__ == "numpy" and type(value).__name__ == "ndarray":
        return Inputs((torch.tensor(value, device="cpu"),), {}, source)
    return Inputs((value,), {}, source)


def _from_specs(specs: Sequence[str], source: str, seed: int, default_bound: int) -> Inputs:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for position, text in enumerate(specs):
        # Another seed for each, or two arguments of one shape would be the same tensor.
        name, value = parse_input_spec(text, seed=seed + position, default_bound=default_bound)
        if name is None:
            args.append(value)
        elif name in kwargs:
            raise UsageError(f"input {text!r}: {name} is given twice")
        else:
            kwargs[name] = value
    if len(specs) == 1 and args and not isinstance(args[0], str):  # a whole batch in one file
        return as_inputs(args[0], source)
    return Inputs(tuple(args), kwargs, source)


def candidate_inputs(
    model: nn.Module, *, given: Any = None, module: ModuleType | None = None, name: str | None = None, seed: int = 0
) -> Iterator[Inputs]:
    """Sample inputs to try, most likely first; an explicit source gives exactly one.

    First that exists: ``given``, ``initaudit_inputs`` in ``module`` (a value, a callable, or a dict by model name, in
    which ``name`` is looked up), ``example_input_array``, ``dummy_inputs`` and ``default_cfg["input_size"]`` on the
    model, else a short ladder inferred from its first layers. Leaves the global random generators alone. Raises
    :class:`AuditError` with stage "input" when there is none, and :class:`UsageError` for a malformed written input.
    """
    bound = next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 10)
    if given is not None:
        is_written = isinstance(given, str) or (
            isinstance(given, tuple | list) and given and all(isinstance(item, str) for item in given)
        )
        yield as_inputs(given, "--input" if is_written else "audit(inputs=...)", seed=seed, default_bound=bound)
        return
    explicit = _from_file(model, module, name, seed, bound) or _from_model(model, seed)
    if explicit is not None:
        yield explicit
        return
    found = False
    for args, kwargs, source in inferred(model, seed):
        found = True
        yield Inputs(args, kwargs, source)
    if not found:
        raise AuditError(
            "input", f"no sample input can be inferred for {type(model).__name__}\n{how_to_give_inputs(model)}"
        )


def none_ran(model: nn.Module, failures: Sequence[tuple[Inputs, BaseException]]) -> AuditError:
    """What to raise when ``forward`` failed on every candidate, given each with its exception.

    One failure is the model's own (stage "forward"); several mean that the input was not guessed (stage "input").
    """
    inputs, error = failures[0]
    kind = type(model).__name__
    if len(failures) == 1:
        return user_error("forward", f"forward of {kind} failed on {inputs.describe()} ({inputs.source})", error)
    width = max(len(tried.describe()) for tried, _ in failures)
    reasons = [f"    {tried.describe():<{width}}  {_first_line(error)}" for tried, error in failures]
    where = f"  The first failed at {location}\n" if (location := user_location(error)) else ""
    return AuditError(
        "input",
        f"no sample input that was inferred runs {kind}\n  Tried were\n"
        + "\n".join(reasons)
        + f"\n{where}{how_to_give_inputs(model)}",
    )


def _first_line(error: BaseException) -> str:
    return shorten(exception_text(error).splitlines()[0], 120, placeholder=" ...")


def _from_file(model: nn.Module, module: ModuleType | None, name: str | None, seed: int, bound: int) -> Inputs | None:
    value = vars(module).get("initaudit_inputs") if module is not None else None
    if module is None or value is None:
        return None
    file = vars(module).get("__file__") or module.__name__
    source = f"initaudit_inputs in {str(file).replace(chr(92), '/').rpartition('/')[2]}"
    value = _called(value, source, seed)
    if isinstance(value, Mapping) and _is_by_name(value, model, module, name):
        if name not in value:
            return None
        value = _called(value[name], f'{source}, entry "{name}"', seed)
        if value is None:
            return None
    return as_inputs(value, source, seed=seed, default_bound=bound)


def _called(value: Any, source: str, seed: int) -> Any:
    """The value itself, or what it returns when it is a function; drawn reproducibly, global generators kept."""
    if isinstance(value, Tensor | Mapping) or not callable(value):
        return value
    try:
        with rng_preserved():
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every device
            return value()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise user_error(
            "input", f"{source} failed", error, "It is called without arguments and returns the input."
        ) from error


def _is_by_name(value: Mapping[Any, Any], model: nn.Module, module: ModuleType, name: str | None) -> bool:
    """Whether the keys are names of models in the file, and not of arguments of ``forward``."""
    if name in value and name not in {p.name for p in forward_parameters(model)}:
        return True
    namespace = vars(module)
    return bool(value) and all(
        isinstance(namespace.get(key), nn.Module)
        or (callable(namespace.get(key)) and not isinstance(namespace[key], Tensor))
        for key in value
    )


def _from_model(model: nn.Module, seed: int) -> Inputs | None:
    example = _attribute(model, "example_input_array")
    if example is not None:
        return _redrawn(as_inputs(example, f"example_input_array of {type(model).__name__}"), seed)
    if not _is_library_placeholder(model):
        dummy = _attribute(model, "dummy_inputs")
        dummy = _called(dummy, f"dummy_inputs of {type(model).__name__}", seed) if dummy is not None else None
        if dummy is not None:
            return as_inputs(dummy, f"dummy_inputs of {type(model).__name__}")
    for name in ("pretrained_cfg", "default_cfg"):
        config = _attribute(model, name)
        size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        if isinstance(size, Sequence) and size and all(isinstance(n, int) and n > 0 for n in size):
            batch = 8 if max(size) > 64 else 32
            drawn = torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed), device="cpu")
            return Inputs((drawn,), {}, f'{name}["input_size"] of {type(model).__name__}')
    return None


def _attribute(model: nn.Module, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except Exception:  # a property of the user's that needs more than a fresh model: as good as absent
        return None


def _is_library_placeholder(model: nn.Module) -> bool:
    """transformers gives every model a ``dummy_inputs`` of 3 x 5 tokens, mostly padding, whatever the model takes."""
    owner = next((cls for cls in type(model).__mro__ if "dummy_inputs" in vars(cls)), type(model))
    return owner.__module__.partition(".")[0] == "transformers" and "dummy_inputs" not in vars(model)


def _redrawn(inputs: Inputs, seed: int) -> Inputs:
    """Lightning examples are often ``torch.zeros(1, 28, 28)``: a shape and no data. Draw N(0, 1) of that shape.

    Only when nothing but constant floating tensors is given; a batch of one becomes 8, since samples must differ.
    """
    tensors: list[Tensor] = []
    map_tensors((inputs.args, inputs.kwargs), lambda t: tensors.append(t) or t)  # type: ignore[func-returns-value]
    constant = [
        t for t in tensors if t.is_floating_point() and t.dim() and t.numel() > 1 and bool((t == t.flatten()[0]).all())
    ]
    if not tensors or len(constant) < len(tensors):
        return inputs
    generator = torch.Generator().manual_seed(seed)
    alone = all(t.shape[0] == 1 for t in tensors)

    def draw(tensor: Tensor) -> Tensor:
        sizes = (8, *tensor.shape[1:]) if alone else tensor.shape
        return torch.randn(sizes, generator=generator, device="cpu").to(tensor)

    source = f"{inputs.source} (shape only: its values are constant)"
    return Inputs(map_tensors(inputs.args, draw), map_tensors(inputs.kwargs, draw), source)

"""Inferring a sample input: the arguments of ``forward`` matched with the first layers, as a ladder of shapes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn

from initaudit.target.entry import Entry, bare_parameters, entries, is_auxiliary
from initaudit.target.templates import BATCH, Fill, Template, tokens
from initaudit.target.transformers_inputs import transformers_ladder, transformers_model

LADDER = 8  # tries that a caller is asked to make at most

_TOKEN_NAMES = {"ids", "input_ids", "token", "tokens", "token_ids", "idx", "src_tokens", "text", "texts", "words"}
_IMAGE_NAMES = {"image", "images", "img", "imgs", "pixel_values", "pixels"}
_TIME_NAMES = {"t", "time", "times", "timestep", "timesteps", "step", "steps", "sigma", "noise_level"}
_MASK_NAMES = {
    "mask", "attention_mask", "attn_mask", "src_mask", "padding_mask", "key_padding_mask",
    "src_key_padding_mask",
}  # fmt: skip
_LABEL_NAMES = {"label", "labels", "target", "targets", "class_labels"}
_LENGTH_NAMES = {"length", "lengths", "seq_len", "seq_lens"}
_EDGE_NAMES = {"edge_index", "edges"}
_STATE_NAMES = {"h", "h0", "hx", "hidden", "hidden_state", "state"}
_CONSTANTS = {"float": 1.0, "int": 1, "bool": False}  # by annotation

Call = tuple[tuple[Any, ...], dict[str, Any], str]  # args, kwargs, where they came from


def forward_parameters(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of ``model.forward`` without ``self``."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # compiled or scripted
        return [inspect.Parameter("input", inspect.Parameter.POSITIONAL_OR_KEYWORD)]


def inferred(model: nn.Module, seed: int) -> Iterator[Call]:
    """At most :data:`LADDER` calls to try, most likely first; none when nothing in the model tells a shape."""
    return islice(_ladder(model, seed), LADDER)


def how_to_give_inputs(model: nn.Module) -> str:
    """The three ways to give a sample input, written out for this model's ``forward``."""
    examples = _examples(model)
    if list(examples) == [""]:
        written, value = f"--input '{examples[''][0]}'", examples[""][1]
    else:
        written = " ".join(f"--input '{name}={text}'" for name, (text, _) in examples.items())
        value = "{" + ", ".join(f'"{name}": {code}' for name, (_, code) in examples.items()) + "}"
    return (
        f"  forward takes ({_signature(model)}). Give an input that it takes, as in:\n"
        f"    on the command line:    {written}\n"
        f"    in the model's file:    initaudit_inputs = {value}\n"
        f"    on the model:           self.example_input_array = {value}"
    )


def _signature(model: nn.Module) -> str:
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in forward_parameters(model)]
    shown = [str(parameter) for parameter in parameters[:6]] + ["..."] * (len(parameters) > 6)
    return ", ".join(shown)


def _examples(model: nn.Module) -> dict[str, tuple[str, str]]:
    """By argument name (empty for a single positional one) an input as written and as code, in the likeliest shape."""
    args, kwargs, _ = next(inferred(model, 0), ((), {}, ""))
    names = [p.name for p in _asked_for(model)]
    if kwargs:
        return {name: _example(value) for name, value in kwargs.items()}
    values = [*args, *[None] * (len(names) - len(args))]
    return {
        name: _example(value) for name, value in zip(names if len(names) > 1 else [""], values or [None], strict=False)
    }


def _example(value: Any) -> tuple[str, str]:
    sizes = tuple(value.shape) if isinstance(value, torch.Tensor) else (32, 64)
    written = f"[{','.join(map(str, sizes))}]"
    if isinstance(value, torch.Tensor) and value.dtype == torch.bool:
        return f"bool{written}", f"torch.zeros({sizes}, dtype=torch.bool)"
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        bound = int(value.max()) + 1
        return f"int64{written}<{bound}", f"torch.randint({bound}, {sizes})"
    return f"float32{written}", f"torch.randn({', '.join(map(str, sizes))})"


def _asked_for(model: nn.Module) -> list[inspect.Parameter]:
    """Arguments to feed: the required ones, else the first that forward has."""
    parameters = forward_parameters(model)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    plain = [p for p in parameters if p.kind not in variadic]
    required = [p for p in plain if p.default is inspect.Parameter.empty]
    return required or plain[:1] or [p for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL][:1]


def _ladder(model: nn.Module, seed: int) -> Iterator[Call]:
    asked = _asked_for(model)
    if (inner := transformers_model(model)) is not None:
        yield from _as_wrapped(model, inner, asked, seed)
    if not asked:
        if not forward_parameters(model):
            yield (), {}, "forward takes no argument"
        return
    found = entries(model)
    named = [_by_name(parameter, model, found) for parameter in asked]
    data = [parameter for parameter, choices in zip(asked, named, strict=True) if not choices]
    rungs = _rungs(model, data, found, has_time=any(p.name in _TIME_NAMES for p in asked))
    for label, templates in rungs:
        # A step may be an integer or a number in [0, 1): each choice in turn before the next shape.
        for choice in range(max([len(choices) for choices in named if choices] or [1])):
            drawn = iter(templates)
            row = [choices[min(choice, len(choices) - 1)] if choices else next(drawn) for choices in named]
            values = _draw(row, seed)
            positional = inspect.Parameter.KEYWORD_ONLY
            args = tuple(v for p, v in zip(asked, values, strict=True) if p.kind is not positional)
            kwargs = {p.name: v for p, v in zip(asked, values, strict=True) if p.kind is positional}
            yield args, kwargs, f"inferred from {label}"


def _draw(row: list[Any], seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    batch = min([item.batch for item in row if isinstance(item, Template)], default=8)
    return [item.draw(generator, batch) if isinstance(item, Template) else item for item in row]


def _as_wrapped(model: nn.Module, inner: nn.Module, asked: list[inspect.Parameter], seed: int) -> Iterator[Call]:
    """Inputs of a transformers model, for itself or for a module of the user's that wraps one."""
    accepts = {p.name for p in forward_parameters(model)}
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in forward_parameters(model))
    label = f"inferred from the config of {type(inner).__name__}"
    for values in transformers_ladder(inner, seed):
        fitting = {name: value for name, value in values.items() if open_ended or name in accepts}
        if all(p.name in fitting for p in asked if p.default is inspect.Parameter.empty) and fitting:
            yield (), fitting, label
        elif len(asked) == 1 and not fitting:
            yield (next(iter(values.values())),), {}, label


def _by_name(parameter: inspect.Parameter, model: nn.Module, found: list[Entry]) -> list[Any]:
    """Values that a parameter's name or annotation calls for; empty when it is plain data."""
    name = parameter.name
    annotation = getattr(parameter.annotation, "__name__", parameter.annotation)
    if isinstance(annotation, str) and annotation in _CONSTANTS:
        return [_CONSTANTS[annotation]]
    steps = next((size for e in found if e.family == "tokens" for size in e.templates[0].shape if size != BATCH), 16)
    if name in _TIME_NAMES:
        return [tokens(1000), Template((BATCH,), fill=Fill.UNIFORM), Template((BATCH, 1), fill=Fill.UNIFORM)]
    if name in _MASK_NAMES:
        # None is read alike everywhere; torch's padding masks hide where True, hand-written ones where 0.
        choices = [None, Template((BATCH, steps), fill=Fill.KEEP if "padding" in name else Fill.ONES)]
        return choices[::-1] if name == "attention_mask" else choices
    if name in _EDGE_NAMES:
        return [Template((2, 4 * 64), 64, Fill.SAMPLES)]  # a row of sources and one of targets: nodes are the samples
    if name in _LENGTH_NAMES:
        return [tokens(steps + 1, low=steps)]
    if name in _LABEL_NAMES:
        classes = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] or [2]
        return [tokens(classes[-1], batch=64)]
    cell = next((m for m in model.modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)), None)
    if name in _STATE_NAMES and isinstance(cell, nn.RNNCellBase):
        return [Template((BATCH, cell.hidden_size), 64)]
    if name in _STATE_NAMES and isinstance(cell, nn.RNNBase):
        layers = cell.num_layers * (2 if cell.bidirectional else 1)
        return [Template((layers, BATCH, cell.hidden_size))]
    return []


def _rungs(
    model: nn.Module, data: list[inspect.Parameter], found: list[Entry], *, has_time: bool
) -> Iterator[tuple[str, list[Template]]]:
    """Templates for the plain data arguments, with the layer they come from."""
    if not data:
        yield "the argument names of forward", []
        return
    preferred = None
    if data[0].name in _TOKEN_NAMES:
        preferred = "tokens"
    elif has_time or data[0].name in _IMAGE_NAMES:
        preferred = "image"
    firsts = _first_of_each_family(found, preferred)
    if len(data) > 1:
        yield from _own_shapes(data, found, firsts)
    shared = list(_one_shape(firsts, found))
    yield from ((_label(entry), [template] * len(data)) for entry, template in shared[:1])
    yield from _concatenated(len(data), shared, has_time)
    yield from ((_label(entry), [template] * len(data)) for entry, template in shared[1:])
    if len(data) == 1:
        known, tried = {entry.fqn for entry in found}, {template for _, template in shared}
        for entry in bare_parameters(model):
            if known.isdisjoint((entry.fqn, entry.fqn.rpartition(".")[0])):
                yield from ((_label(entry), [template]) for template in entry.templates if template not in tried)


def _label(entry: Entry) -> str:
    return entry.label if entry.label.startswith("parameter") else f"first layer {entry.label}"


def _first_of_each_family(found: list[Entry], preferred: str | None) -> list[Entry]:
    firsts: dict[str, Entry] = {}
    for entry in sorted(found, key=lambda e: e.family == "tokens" and is_auxiliary(e.fqn)):
        firsts.setdefault(entry.family, entry)
    return sorted(firsts.values(), key=lambda entry: entry.family != preferred)


def _one_shape(firsts: list[Entry], found: list[Entry]) -> Iterator[tuple[Entry, Template]]:
    """Each family's likeliest shapes, then those of later layers, for a head may be defined first, then the rest."""
    later = [entry for entry in found if all(entry is not first for first in firsts)]
    ordered = [(entry, entry.templates[:4]) for entry in firsts]
    ordered += [(entry, entry.templates[:1]) for entry in later]
    ordered += [(entry, entry.templates[4:]) for entry in firsts]
    seen: set[Template] = set()
    for entry, templates in ordered:
        yield from ((entry, template) for template in templates if template not in seen)
        seen.update(templates)


def _concatenated(
    arguments: int, shared: list[tuple[Entry, Template]], has_time: bool
) -> Iterator[tuple[str, list[Template]]]:
    """Arguments that are joined before the first layer: a critic's state and action, x and t, two images."""
    joinable = ((e, t) for e, t in shared if t.fill is Fill.NORMAL and (len(t.shape) == 2 or e.family == "image"))
    entry, template = next(joinable, (None, None))
    if entry is None or template is None:
        return
    times = int(has_time and len(template.shape) == 2)  # a time is one column; it is not joined to images
    width = template.shape[1] - times
    if arguments + times < 2 or width < arguments:
        return
    rest = width // arguments
    widths = [width - rest * (arguments - 1), *[rest] * (arguments - 1)]
    yield _label(entry), [Template((BATCH, part, *template.shape[2:]), template.batch) for part in widths]


def _own_shapes(
    data: list[inspect.Parameter], found: list[Entry], firsts: list[Entry]
) -> Iterator[tuple[str, list[Template]]]:
    """Two or more data arguments with a branch of the model each: by name, else in definition order."""
    if firsts and firsts[0].family == "bilinear":
        yield _label(firsts[0]), list(firsts[0].templates[: len(data)])
    branches = _branches(found)
    own = [_branch_of(p.name, branches) for p in data]
    if all(own):
        yield from _each_own([entry for entry in own if entry])
    elif len(branches) >= len(data):
        yield from islice(_each_own(list(branches.values())[: len(data)]), 2)


def _each_own(chosen: list[Entry]) -> Iterator[tuple[str, list[Template]]]:
    for rung in range(max(len(entry.templates) for entry in chosen)):
        label = " and ".join(entry.label for entry in chosen)
        yield f"first layers {label}", [entry.templates[min(rung, len(entry.templates) - 1)] for entry in chosen]


def _branches(found: list[Entry]) -> dict[str, Entry]:
    """The first layer below each child of the model."""
    branches: dict[str, Entry] = {}
    for entry in found:
        branches.setdefault(entry.fqn.partition(".")[0], entry)
    return branches


def _branch_of(argument: str, branches: dict[str, Entry]) -> Entry | None:
    """The branch that is named like an argument: ``image_encoder`` for ``image``."""
    name = argument.lower()
    named = ((child.lower(), entry) for child, entry in branches.items())
    return next((e for child, e in named if min(len(name), len(child)) > 2 and (name in child or child in name)), None)

"""Parameters of one role and shape in the repeated blocks of a model, and which of them are unlike the others."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from initaudit.advice.recommend import plain_call
from initaudit.advice.settings import OFF_MEAN, Setting, constant
from initaudit.records import Parameter
from initaudit.rules.drift import SIGNIFICANT
from initaudit.rules.flow import weight_deviation
from initaudit.rules.laws import Laws, block_of, is_torch_default, near, trained

FACTOR = 1.25
_MIXED_FACTOR = 1.5  # where the equals have several shapes, and gains may differ with them
_MAJORITY = 2 / 3


@dataclass(frozen=True, slots=True)
class Odd:
    """A parameter unlike its equals, the rms that those have, the words for them, and how it should start.

    ``is_bound`` says that ``usual`` is only the end of a range.
    """

    parameter: Parameter
    usual: float
    equals: str
    start: Setting | None = None
    is_bound: bool = False


def sisters(laws: Laws) -> list[Sequence[Parameter]]:
    """Parameters of one role in repeated blocks; but for weights also of one shape, and weights of one kind of layer.

    A bias is compared with those beside weights of one shape, whose fan-in its law follows.
    """
    groups: dict[tuple[str, int, tuple[int, ...], tuple[int, ...]], list[Parameter]] = {}
    beside = {module_of(p.fqn): p.shape for p in laws.trace.parameters if len(p.shape) > 1}
    for parameter in laws.trace.parameters:
        role = _role(parameter.fqn)
        if "*" in role and trained(parameter):
            # Blocks of several widths are sisters, but not any two layers of a plain Sequential.
            mixed = parameter.fqn in laws.layers and not _is_plain(role)
            dims, shape = len(parameter.shape), () if mixed else parameter.shape
            theirs = beside.get(module_of(parameter.fqn), ()) if shape else ()
            groups.setdefault((role, dims, shape, theirs), []).append(parameter)
    # Among consecutive layers three must agree against the odd one.
    found = (members for (role, *_), members in groups.items() if len(members) > (3 if _is_plain(role) else 1))
    return [part for members in found for part in _by_place(members)]


def _by_place(members: Sequence[Parameter]) -> list[Sequence[Parameter]]:
    """``members`` by their place within the repeated block, where places differ and blocks agree on each: as roles do.

    Two thirds of three blocks or more must agree; what is numbered once has no place within anything.
    """
    paths = [p.fqn.split(".") for p in members]
    differing = [i for i, names in enumerate(zip(*paths, strict=True)) if len(set(names)) > 1]
    if len(differing) < 2:
        return [members]
    places: dict[str, list[Parameter]] = {}
    for parameter, path in zip(members, paths, strict=True):
        places.setdefault(path[differing[-1]], []).append(parameter)
    usual = [median(p.rms for p in part) for part in places.values()]
    if all(_is_one(rms, usual[0]) for rms in usual):
        return [members]
    agree = all(
        len(part) > 2 and sum(_is_one(p.rms, rms) for p in part) >= _MAJORITY * len(part) - 1e-9
        for part, rms in zip(places.values(), usual, strict=True)
    )
    return [*places.values()] if agree else [members]


def _is_one(rms: float, other: float) -> bool:
    return rms == other or near(rms, other)


def _is_plain(role: str) -> bool:
    """Whether the numbered part is the layer itself: consecutive layers, and no layer of one role in sister blocks."""
    return role.rpartition(".")[0].endswith("*")


def module_of(fqn: str) -> str:
    """The module that a parameter belongs to, also behind a parametrization."""
    return fqn.rpartition(".")[0].split(".parametrizations.")[0]


def odd_ones(laws: Laws, groups: Sequence[Sequence[Parameter]]) -> Iterator[Odd]:
    """The parameters of each group that are unlike the rest of it."""
    pairs: list[tuple[Parameter, Parameter]] = []
    for members in groups:
        if len(members) == 2:
            pairs += _odd_of_two(members, laws)
            continue
        found = _odd_of_many(members, laws)
        if found and not all(_fits(p, laws) for p in members):
            equals = f"its {len(members) - 1} equals in the sister blocks have"
            others = [p for p in members if p not in [odd for odd, _ in found]]
            yield from (Odd(p, usual, equals, _start(p, _nearest(others, usual))) for p, usual in found)
    for odd, right in _agreed(pairs):
        if not (_fits(odd, laws) and _fits(right, laws)):
            yield Odd(odd, right.rms, "its equal in the sister block has", _start(odd, right))


def _nearest(members: Sequence[Parameter], rms: float) -> Parameter:
    return min(members, key=lambda p: abs(p.rms - rms))


def _start(odd: Parameter, example: Parameter) -> Setting:
    """What makes of ``odd`` what ``example`` is: one number throughout, or draws of one law around one mean."""
    if example.constant:
        return constant(odd.fqn, example.mean)
    std, count = example.std, math.prod(example.shape)
    if abs(example.mean) > OFF_MEAN * std / math.sqrt(count):
        return Setting(odd.fqn, "normal_", f"{example.mean:.4g}, {std:.4g}", std)
    call = plain_call(example, example.rms)
    return Setting(odd.fqn, call.scheme, call.arguments, call.std)


def _agreed(pairs: Sequence[tuple[Parameter, Parameter]]) -> Iterator[tuple[Parameter, Parameter]]:
    """Pairs of (odd, right), turned round where most pairs of the same two blocks find the other block odd."""
    blocks = [(block_of(odd.fqn), block_of(right.fqn)) for odd, right in pairs]
    votes = Counter(blocks)
    for (odd, right), (one, other) in zip(pairs, blocks, strict=True):
        turned = votes[other, one] > votes[one, other]
        yield (right, odd) if turned else (odd, right)


def _odd_of_many(members: Sequence[Parameter], laws: Laws) -> list[tuple[Parameter, float]]:
    """Those unlike the others, and the rms that they should have, in the terms in which two thirds of them agree.

    Sisters of several widths may share one std, or one std times the root of the fan-in or of the fan-out.
    """
    best: list[tuple[Parameter, float]] = []
    most = max(2.0, _MAJORITY * len(members) - 1e-9)
    mixed = len({p.shape for p in members}) > 1
    for scales in _terms(members, laws) if mixed else [[1.0] * len(members)]:
        values = [p.rms * scale for p, scale in zip(members, scales, strict=True)]
        above = [v for v in values if v > 0]
        usual = 0.0 if len(above) < len(members) / 2 else median(above)
        agreeing = sum(v == usual or near(v, usual) for v in values)
        if agreeing >= most:
            most = agreeing + 1
            best = [(p, usual / scale) for p, scale in zip(members, scales, strict=True)]
    odd = [
        (p, rms) for p, rms in best or _against_default(members) if _apart(p, rms, _MIXED_FACTOR if mixed else FACTOR)
    ]
    return _in_like_blocks(odd, members, laws) if any(is_torch_default(p) for p, _ in odd) else odd


def _against_default(members: Sequence[Parameter]) -> list[tuple[Parameter, float]]:
    """What all should be where half of the members or more have one rms and the rest was left at torch's default."""
    drawn = [p for p in members if len(p.shape) > 1 and not is_torch_default(p)]
    if not len(members) / 2 <= len(drawn) < len(members) or not all(near(p.rms, drawn[0].rms) for p in drawn):
        return []
    return [(p, drawn[0].rms) for p in members]


def _in_like_blocks(
    odd: Sequence[tuple[Parameter, float]], members: Sequence[Parameter], laws: Laws
) -> list[tuple[Parameter, float]]:
    """Without those left at torch's default in blocks of other parts than the rest of ``members`` are in.

    What has convolutions in its first stages and attention in the last initializes the two by other code.
    """
    parts, names = _parts_of_blocks(members, laws), {p.fqn for p, _ in odd}
    known = {parts[p.fqn] for p in members if p.fqn not in names and not is_torch_default(p)}
    # A first block may lack a norm, or have a projection more.
    like = {own for own in parts.values() if any(own <= other or other <= own for other in known)}
    return [(p, rms) for p, rms in odd if not is_torch_default(p) or parts[p.fqn] in like]


def _parts_of_blocks(members: Sequence[Parameter], laws: Laws) -> dict[str, frozenset[str]]:
    """By the name of each member, the roles of all parameters of its block: what the last differing number tells."""
    paths = [p.fqn.split(".") for p in members]
    last = max(i for i, names in enumerate(zip(*paths, strict=True)) if len(set(names)) > 1)
    parts: dict[tuple[str, ...], set[str]] = {}
    for parameter in laws.trace.parameters:
        path = parameter.fqn.split(".")
        parts.setdefault(tuple(path[: last + 1]), set()).add(_role(".".join(path[last + 1 :])))
    return {p.fqn: frozenset(parts[tuple(path[: last + 1])]) for p, path in zip(members, paths, strict=True)}


def _role(fqn: str) -> str:
    """The name with a star for each number."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", fqn)


def _terms(members: Sequence[Parameter], laws: Laws) -> Iterator[list[float]]:
    """What the std is multiplied with in each kind of law: 1, and the roots of the fans, effective or torch's own."""
    layers = [laws.layers[p.fqn] for p in members]
    yield [1.0] * len(members)
    yield [layer.fan_in**0.5 for layer in layers]
    yield [layer.fan_out**0.5 for layer in layers]
    by_shape = [laws.fans_by_shape(layer) for layer in layers]
    yield [(fan_in + fan_out) ** 0.5 for fan_in, fan_out, _ in by_shape]
    yield from ([fans[i] ** 0.5 for fans in by_shape] for i in range(3))


def _odd_of_two(members: Sequence[Parameter], laws: Laws) -> list[tuple[Parameter, Parameter]]:
    """The odd one and the right one of two that differ.

    Right is the one that is as the rest of the model is, or keeps to a rule. Against a leftover of torch's default the
    other is right, if it is no accident.
    """
    first, second = members
    if first.shape != second.shape or not _apart(first, second.rms):
        return []
    blocks = {block_of(p.fqn) for p in members}
    signs: tuple[Callable[[Parameter], float], ...] = (
        laws.is_usual,
        lambda p: len(p.shape) > 1 and not is_torch_default(p) and (laws.backers(p, blocks) > 0 or laws.beyond(p) == 1),
        lambda p: laws.backers(p, blocks) if len(p.shape) > 1 else 0,
        lambda p: -laws.beyond(p),
    )
    for sign in signs:
        one, other = sign(first), sign(second)
        if one != other:
            return [(second, first) if one > other else (first, second)]
    return []


def _apart(parameter: Parameter, usual: float, factor: float = FACTOR) -> bool:
    if parameter.rms == 0 or usual == 0:
        return parameter.rms != usual
    # At least that of normal values: the kurtosis of a handful of them says nothing.
    error = 0.0 if parameter.constant else max(parameter.std_uncertainty, 1 / math.sqrt(2 * math.prod(parameter.shape)))
    error *= 6 * math.sqrt(2)
    return abs(math.log(parameter.rms / usual)) > max(math.log(factor), error)


def _fits(parameter: Parameter, laws: Laws) -> bool:
    """Whether a weight fits the variance rule; where the odd ones do as well, they differ in gain, as a first layer."""
    layer = laws.layers.get(parameter.fqn)
    return (
        layer is not None
        and layer.weight.rms > 0
        and abs(weight_deviation(layer, (None, layer.nonlinearity))) < SIGNIFICANT
    )

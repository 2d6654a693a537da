"""What each module of a plan is to run, and which modules run the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from initaudit.advice.facts import ModuleFact
from initaudit.advice.settings import CENTRE, LENGTH, Setting

CENTRED = ".copy_("  # what is computed from a weight, and so comes after it
FEW = 2  # modules that are set by name rather than in a branch of their own

_PARAMETRIZED = re.compile(r"(?:^|\.)parametrizations\.(\w+)\.original\d?$")
_KIND = re.compile(r"(weight|bias)_(ih|hh|hr)(?=_l\d)")

Statements = tuple[str, ...]  # of one module, with {m} for it


@dataclass
class Group:
    """Modules of one class that get the same statements, by attribute."""

    test: str
    statements: dict[str, Statements]
    members: list[ModuleFact] = field(default_factory=list)

    def includes(self, other: Group) -> bool:
        """Whether ``other`` gets the same, but for what its modules do not have, as a Linear without bias."""
        missing = self.statements.keys() - other.statements.keys()
        return (
            self.test == other.test
            and all(self.statements.get(leaf) == lines for leaf, lines in other.statements.items())
            and all(leaf in f.parameters and f.parameters[leaf] is None for f in other.members for leaf in missing)
        )


def grouped(wanted: Mapping[str, list[Setting]], facts: Iterable[ModuleFact]) -> list[Group]:
    """The modules that own a parameter with a setting, by class and by what they run."""
    groups: dict[tuple[object, ...], Group] = {}
    for fact in facts:
        statements: dict[str, Statements] = {}
        for leaf, parameter in fact.parameters.items():
            if parameter is not None and _owner(parameter) == fact.fqn and parameter in wanted:
                statements[leaf] = tuple(line for s in wanted[parameter] for line in _lines(s, leaf, fact))
        order = {leaf: ("bias" in leaf, any(CENTRED in line for line in lines)) for leaf, lines in statements.items()}
        statements = {leaf: statements[leaf] for leaf in sorted(statements, key=order.__getitem__)}
        if statements:
            statements = _looped(statements, fact)
            key = (fact.test, tuple(statements.items()))
            groups.setdefault(key, Group(fact.test, statements)).members.append(fact)
    merged: list[Group] = []
    for group in sorted(groups.values(), key=lambda g: -len(g.statements)):
        larger = next((g for g in merged if g.includes(group)), None)
        if larger is not None:
            larger.members += group.members
        else:
            merged.append(group)
    return merged


def _looped(statements: dict[str, Statements], fact: ModuleFact) -> dict[str, Statements]:
    """One loop over the parameters of a list or of a recurrence, where those of one kind start alike."""
    plain = {tuple(line.replace(fact.at(leaf), "tensor") for line in lines) for leaf, lines in statements.items()}
    is_list = all(fact.at(leaf) == f"{{m}}[{leaf}]" for leaf in statements)
    if is_list and len(plain) == 1 and len(statements) == len(fact.parameters) > FEW:
        return {next(iter(statements)): ("for tensor in {m}:", *(f"    {line}" for line in plain.pop()))}
    found = {leaf: _KIND.match(leaf) for leaf in fact.parameters}
    kinds = {leaf: match[0] for leaf, match in found.items() if match and leaf in statements}
    by_kind: dict[str, set[Statements]] = {}
    for leaf, kind in kinds.items():
        by_kind.setdefault(kind, set()).add(tuple(line.replace(fact.at(leaf), "tensor") for line in statements[leaf]))
    every = [leaf for leaf, match in found.items() if match and match[0] in by_kind]
    alike = all(len(forms) == 1 for forms in by_kind.values()) and set(every) == set(statements)
    if not alike or len(every) <= len(by_kind):
        return statements
    loop = ["for name, tensor in {m}.named_parameters():"]
    for number, (kind, forms) in enumerate(by_kind.items()):
        loop.append(f'    {"elif" if number else "if"} name.startswith("{kind}"):')
        loop += [f"        {line}" for line in next(iter(forms))]
    return {every[0]: tuple(loop)}


def _lines(setting: Setting, leaf: str, fact: ModuleFact) -> Iterator[str]:
    """The statements of one setting, with ``{m}`` for the module."""
    at = fact.at(leaf)
    note = f"  # {setting.note}" if setting.note else ""
    if setting.scheme == CENTRE:
        sums = f"sum({setting.arguments})" if setting.arguments else "flatten(1).sum(1)"
        yield f"{at}.copy_({-setting.value:g} * {fact.at(_attribute(setting.of))}.{sums}){note}"
        return
    if setting.scheme == LENGTH:
        yield f"{at}.copy_(torch.norm_except_dim({fact.at(_attribute(setting.of))}, {setting.arguments})){note}"
        return
    if setting.rows is not None:
        at += f"[{setting.rows[0]}:{setting.rows[1]}]"
    arguments = setting.arguments
    if setting.gain is not None:
        arguments = f"std={setting.gain:.4g} / {at}[0].numel() ** 0.5"
    if leaf in fact.assigned:
        tensor = f"torch.empty_like({at})" if setting.draws else at
        call = f"nn.init.{setting.scheme}({', '.join(filter(None, (tensor, arguments)))})"
        yield f"{at} = {call}{note}"
    elif setting.blocks > 1:
        yield f"for block in {at}.chunk({setting.blocks}):{note}"
        yield f"    nn.init.{setting.scheme}({', '.join(filter(None, ('block', arguments)))})"
    else:
        yield f"nn.init.{setting.scheme}({', '.join(filter(None, (at, arguments)))}){note}"
    if setting.draws and fact.padding_idx is not None:
        yield f"nn.init.zeros_({at}[{fact.padding_idx}])  # padding"


def _owner(parameter: str) -> str:
    """The module that a parameter belongs to; of one behind a parametrization the module that is parametrized."""
    return _PARAMETRIZED.split(parameter)[0] if _PARAMETRIZED.search(parameter) else parameter.rpartition(".")[0]


def _attribute(weight: str) -> str:
    """The attribute of its module that a weight is reached by."""
    return match[1] if (match := _PARAMETRIZED.search(weight)) else weight.rpartition(".")[2]

"""A plan as the shortest readable ``init_weights(model)`` in plain ``torch.nn.init``.

Modules of one class that start alike share a branch of one loop; what is left is set by name behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from initaudit.advice.facts import ModuleFact
from initaudit.advice.settings import CENTRE, Setting

CENTRED = ".copy_("  # a bias that is computed from the weight, and so comes after it
FEW = 2  # modules that are set by name rather than in a branch of their own
ENDS = 4  # names of layers within their block that one condition lists
LISTED = 4  # settings that differ in nothing but a number, from which they become a table
WIDTH = 118

_BY_FAN = re.compile(r"std=\S+ / \S+\[0\]\.numel\(\) \*\* 0\.5")
_CALL = re.compile(r"    (nn\.init\.\w+)\(([^,()]+)(.*)\)(  # .*)?")
_KIND = re.compile(r"(weight|bias)_(ih|hh|hr)(?=_l\d)")

Statements = tuple[str, ...]  # of one module, with {m} for it


@dataclass
class _Group:
    """Modules of one class that get the same statements, by attribute."""

    test: str
    statements: dict[str, Statements]
    members: list[ModuleFact] = field(default_factory=list)

    def includes(self, other: _Group) -> bool:
        """Whether ``other`` gets the same, but for what its modules do not have, as a Linear without bias."""
        missing = self.statements.keys() - other.statements.keys()
        return (
            self.test == other.test
            and all(self.statements.get(leaf) == lines for leaf, lines in other.statements.items())
            and all(leaf in f.parameters and f.parameters[leaf] is None for f in other.members for leaf in missing)
        )


def init_function(
    settings: Sequence[Setting], facts: Sequence[ModuleFact], constants: Mapping[str, float], *, title: str
) -> str:
    """The code of ``init_weights(model)``, with its imports, that carries out ``settings``.

    ``constants`` are the parameters that are one number throughout already, which the code may set to it again.
    ``title`` is the first line of its docstring.
    """
    wanted: dict[str, list[Setting]] = {}
    for setting in settings:
        wanted.setdefault(setting.parameter, []).append(setting)
    groups = _groups(wanted, facts)
    stds = {setting.parameter: setting.value for setting in settings}
    writer = _Writer(facts, constants, {f.fqn: g for g in groups for f in g.members}, stds)
    body = [f'    """{title}"""', *_commented(writer.body(groups))]
    lines = ["import torch", "from torch import nn", "", "", "@torch.no_grad()"]
    return "\n".join([*lines, "def init_weights(model: nn.Module) -> None:", *body]) + "\n"


def _commented(lines: Iterable[str]) -> Iterator[str]:
    """Each note above its line and not behind it, once for lines in a row that share it."""
    last = ""
    for line in lines:
        code, found, note = line.partition("  # ")
        if found and note != last:
            yield " " * (len(code) - len(code.lstrip())) + f"# {note}"
        yield code
        last = note


def _groups(wanted: Mapping[str, list[Setting]], facts: Iterable[ModuleFact]) -> list[_Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    for fact in facts:
        statements: dict[str, Statements] = {}
        for leaf, parameter in sorted(fact.parameters.items(), key=lambda item: "bias" in item[0]):
            if parameter is not None and parameter.rpartition(".")[0] == fact.fqn and parameter in wanted:
                statements[leaf] = tuple(line for s in wanted[parameter] for line in _lines(s, leaf, fact))
        if statements:
            statements = _looped(statements, fact)
            key = (fact.test, tuple(statements.items()))
            groups.setdefault(key, _Group(fact.test, statements)).members.append(fact)
    merged: list[_Group] = []
    for group in sorted(groups.values(), key=lambda g: -len(g.statements)):
        larger = next((g for g in merged if g.includes(group)), None)
        if larger is not None:
            larger.members += group.members
        else:
            merged.append(group)
    return merged


def _looped(statements: dict[str, Statements], fact: ModuleFact) -> dict[str, Statements]:
    """One loop over the parameters of a list or of a recurrence, where those of one kind start alike."""
    plain = {tuple(line.replace(f"{{m}}[{leaf}]", "tensor") for line in lines) for leaf, lines in statements.items()}
    if len(plain) == 1 and len(statements) == len(fact.parameters) > FEW and all(leaf.isdigit() for leaf in statements):
        return {next(iter(statements)): ("for tensor in {m}:", *(f"    {line}" for line in plain.pop()))}
    found = {leaf: _KIND.match(leaf) for leaf in fact.parameters}
    kinds = {leaf: match[0] for leaf, match in found.items() if match and leaf in statements}
    by_kind: dict[str, set[Statements]] = {}
    for leaf, kind in kinds.items():
        by_kind.setdefault(kind, set()).add(tuple(line.replace(f"{{m}}.{leaf}", "tensor") for line in statements[leaf]))
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
    at = f"{{m}}.{leaf}" if leaf.isidentifier() else f"{{m}}[{leaf}]" if leaf.isdigit() else f'{{m}}["{leaf}"]'
    note = f"  # {setting.note}" if setting.note else ""
    if setting.scheme == CENTRE:
        yield f"{at}.copy_(-{setting.value:g} * {{m}}.weight.flatten(1).sum(1)){note}"
        return
    if setting.rows is not None:
        at += f"[{setting.rows[0]}:{setting.rows[1]}]"
    arguments = setting.arguments
    if setting.gain is not None:
        arguments = f"std={setting.gain:.4g} / {at}[0].numel() ** 0.5"
    if setting.blocks > 1:
        yield f"for block in {at}.chunk({setting.blocks}):{note}"
        yield f"    nn.init.{setting.scheme}({', '.join(filter(None, ('block', arguments)))})"
    else:
        yield f"nn.init.{setting.scheme}({', '.join(filter(None, (at, arguments)))}){note}"
    if setting.draws and fact.padding_idx is not None:
        yield f"nn.init.zeros_({at}[{fact.padding_idx}])  # padding"


@dataclass
class _Writer:
    facts: Sequence[ModuleFact]
    constants: Mapping[str, float]
    group_of: dict[str, _Group]
    stds: dict[str, float]

    def body(self, groups: Sequence[_Group]) -> Iterator[str]:
        """The loop over modules, then what is set by name."""
        named: list[_Group] = []
        branches: list[tuple[str, _Group]] = []
        for test in dict.fromkeys(group.test for group in groups):
            alike = sorted((g for g in groups if g.test == test), key=lambda g: len(g.members))
            general = alike.pop()
            named += [g for g in alike if len(g.members) <= FEW or "\n" in self._condition(g, [])]
            special = [g for g in alike if g not in named]
            if len(general.members) <= FEW:
                named.append(general)
                continue
            taken: list[ModuleFact] = []
            for group in (*special, general):
                undone = [f for g in named if g.statements.keys() >= group.statements.keys() for f in g.members]
                branches.append((self._condition(group, [*taken, *undone]), group))
                taken += group.members
        if branches:
            yield (
                "    for name, module in model.named_modules():"
                if any("name" in condition.replace("__name__", "") for condition, _ in branches)
                else "    for module in model.modules():"
            )
        for number, (condition, group) in enumerate(branches):
            yield f"        {'elif' if number else 'if'} {condition}:"
            yield from self._statements(group)
        whole = {condition: group for condition, group in branches if condition == group.test}
        by_fqn = {fact.fqn: group for group in named for fact in group.members}
        lines = [
            line
            for fact in self.facts
            if fact.fqn in by_fqn
            for line in self._by_name(fact, by_fqn[fact.fqn], whole.get(by_fqn[fact.fqn].test))
        ]
        yield from _tabulated(lines)

    def _statements(self, group: _Group) -> Iterator[str]:
        for leaf, lines in group.statements.items():
            alike = (fact for fact in self.facts if fact.test == group.test)
            guard = any(leaf in fact.parameters and fact.parameters[leaf] is None for fact in alike)
            if guard:
                yield f"            if module.{leaf} is not None:"
            for line in lines:
                yield " " * (16 if guard else 12) + line.format(m="module")

    def _by_name(self, fact: ModuleFact, group: _Group, before: _Group | None) -> Iterator[str]:
        """The group's statements for one of its modules, but those that the loop ``before`` has made of it already."""
        done = before.statements if before is not None else {}
        for leaf, lines in group.statements.items():
            parameter = fact.parameters.get(leaf)
            if parameter is None or (done.get(leaf) == lines and not any(CENTRED in line for line in lines)):
                continue
            for line in lines:
                plain = _BY_FAN.sub(f"std={self.stds[parameter]:.4g}", line)
                yield "    " + plain.format(m=fact.access)

    def _condition(self, group: _Group, taken: Sequence[ModuleFact]) -> str:
        """The shortest condition that holds for the group's modules and no other that it must not touch."""
        names = [fact.fqn for fact in group.members]
        own = {id(fact) for fact in (*group.members, *taken)}
        alike = [fact for fact in self.facts if fact.test == group.test and id(fact) not in own]
        barred = [fact.fqn for fact in alike if not self._harmless(fact, group)]
        if not barred:
            return group.test
        ends = tuple(dict.fromkeys(f".{name.rpartition('.')[2]}" for name in names))
        if len(ends) <= ENDS and all("." in n for n in names) and not any(n.endswith(ends) for n in barred):
            listed = ", ".join(f'"{end}"' for end in ends)
            return f"{group.test} and name.endswith({listed if len(ends) == 1 else f'({listed})'})"
        start = _common_start(names)
        if start and not any(name.startswith(start) for name in barred):
            return f'{group.test} and name.startswith("{start}")'
        if len(barred) <= FEW or len(barred) < len(names) / 2:
            return f"{group.test} and name not in {_set(barred)}"
        return f"{group.test} and name in {_set(names)}"

    def _harmless(self, fact: ModuleFact, group: _Group) -> bool:
        """Whether the group's statements would leave a module that is not its own as it is."""
        if fact.fqn in self.group_of:
            return False
        return all(
            ((parameter := fact.parameters.get(leaf)) is None and leaf in fact.parameters)
            or (
                parameter is not None
                and parameter in self.constants
                and all(_fills(line) == self.constants[parameter] for line in lines)
            )
            for leaf, lines in group.statements.items()
        )


def _fills(line: str) -> float | None:
    """The number that a statement fills a whole parameter with, if it does."""
    if "])" in line:  # a row, or some rows
        return None
    return 0.0 if "nn.init.zeros_(" in line else 1.0 if "nn.init.ones_(" in line else None


def _tabulated(lines: Sequence[str]) -> Iterator[str]:
    """``lines``, those that make one call on many tensors as one loop over these, with a column of stds if need be."""
    rows: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for line in lines:
        if match := _CALL.fullmatch(line):
            scheme, tensor, arguments, note = match.groups(default="")
            std = arguments.removeprefix(", std=") if arguments.startswith(", std=") else ""
            key = (scheme, ", std=std" if std else arguments, note)
            rows.setdefault(key, []).append((tensor, std))
    tables = {key: found for key, found in rows.items() if len(found) >= LISTED}
    for line in lines:
        match = _CALL.fullmatch(line)
        if match:
            scheme, tensor, arguments, note = match.groups(default="")
            key = (scheme, ", std=std" if arguments.startswith(", std=") else arguments, note)
            if key in tables:
                yield from _table(key, tables.pop(key))
            if key in tables or len(rows[key]) >= LISTED:
                continue
        yield line


def _table(key: tuple[str, ...], rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    scheme, arguments, note = key
    one = len({std for _, std in rows}) == 1
    if one and rows[0][1]:
        arguments = f", std={rows[0][1]}"
    yield f"    for {'tensor' if one else 'tensor, std'} in [{note}"
    yield from (f"        {tensor}," if one else f"        ({tensor}, {std})," for tensor, std in rows)
    yield "    ]:"
    yield f"        {scheme}(tensor{arguments})"


def _common_start(names: Sequence[str]) -> str:
    """The longest path, up to a dot, that all names begin with."""
    first = names[0].split(".")
    for end in range(len(first) - 1, 0, -1):
        start = ".".join(first[:end]) + "."
        if all(name.startswith(start) for name in names):
            return start
    return ""


def _set(names: Sequence[str]) -> str:
    """The names as a set in the code, one to a line where they are many."""
    quoted = [f'"{name}"' for name in names]
    line = "{" + ", ".join(quoted) + "}"
    return line if len(line) < WIDTH / 2 else "{\n" + "".join(f"            {name},\n" for name in quoted) + "        }"

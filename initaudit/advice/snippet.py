"""A plan as the shortest readable ``init_weights(model)`` in plain ``torch.nn.init``.

Modules of one class that start alike share a branch of one loop; what is left is set by name behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from initaudit.advice.facts import PARAMETRIZED, ModuleFact
from initaudit.advice.settings import Setting
from initaudit.advice.statements import CENTRED, FEW, Group, grouped

ENDS = 4  # names of layers within their block that one condition lists
LISTED = 4  # settings that differ in nothing but a number, from which they become a table
WIDTH = 118

_BY_FAN = re.compile(r"std=\S+ / \S+\[0\]\.numel\(\) \*\* 0\.5")
_CALL = re.compile(r"    (nn\.init\.\w+)\(([^,()]+)(.*)\)(  # .*)?")


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
    groups = grouped(wanted, facts)
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


def _holds(test: str, fact: ModuleFact) -> bool:
    return fact.test in (test, test + PARAMETRIZED)


@dataclass
class _Writer:
    facts: Sequence[ModuleFact]
    constants: Mapping[str, float]
    group_of: dict[str, Group]
    stds: dict[str, float]

    def body(self, groups: Sequence[Group]) -> Iterator[str]:
        """The loop over modules, then what is set by name."""
        named: list[Group] = []
        branches: list[tuple[str, Group]] = []
        taken: list[ModuleFact] = []
        tests = dict.fromkeys(group.test for group in groups)
        for test in sorted(tests, key=lambda test: not test.endswith(PARAMETRIZED)):  # the narrower test comes first
            alike = sorted((g for g in groups if g.test == test), key=lambda g: len(g.members))
            general = alike.pop()
            named += [g for g in alike if len(g.members) <= FEW or "\n" in self._condition(g, [])]
            special = [g for g in alike if g not in named]
            if len(general.members) <= FEW:
                named.append(general)
                continue
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

    def _statements(self, group: Group) -> Iterator[str]:
        for leaf, lines in group.statements.items():
            alike = (fact for fact in self.facts if _holds(group.test, fact))
            guard = any(leaf in fact.parameters and fact.parameters[leaf] is None for fact in alike)
            if guard:
                yield f"            if {_on('module', group.members[0].at(leaf))} is not None:"
            for line in lines:
                yield " " * (16 if guard else 12) + _on("module", line)

    def _by_name(self, fact: ModuleFact, group: Group, before: Group | None) -> Iterator[str]:
        """The group's statements for one of its modules, but those that the loop ``before`` has made of it already."""
        done = before.statements if before is not None else {}
        for leaf, lines in group.statements.items():
            parameter = fact.parameters.get(leaf)
            if parameter is None or (done.get(leaf) == lines and not any(CENTRED in line for line in lines)):
                continue
            for line in lines:
                plain = _BY_FAN.sub(f"std={self.stds[parameter]:.4g}", line)
                yield "    " + _on(fact.access, plain)

    def _condition(self, group: Group, taken: Sequence[ModuleFact]) -> str:
        """The shortest condition that holds for the group's modules and no other that it must not touch."""
        names = [fact.fqn for fact in group.members]
        own = {id(fact) for fact in (*group.members, *taken)}
        alike = [fact for fact in self.facts if _holds(group.test, fact) and id(fact) not in own]
        unlike = [fact for fact in alike if not self._harmless(fact, group)]
        barred = [fact.fqn for fact in unlike]
        if not barred:
            return group.test
        for leaf in group.statements:
            if not any(leaf in fact.parameters for fact in unlike):
                return f"{group.test} and hasattr(module, {_quoted(leaf)})"
        ends = tuple(dict.fromkeys(f".{name.rpartition('.')[2]}" for name in names))
        if len(ends) <= ENDS and all("." in n for n in names) and not any(n.endswith(ends) for n in barred):
            listed = ", ".join(map(_quoted, ends))
            return f"{group.test} and name.endswith({listed if len(ends) == 1 else f'({listed})'})"
        start = _common_start(names)
        if start and not any(name.startswith(start) for name in barred):
            return f"{group.test} and name.startswith({_quoted(start)})"
        if len(barred) == 1:
            return f"{group.test} and name != {_quoted(barred[0])}"
        if len(barred) <= FEW or len(barred) < len(names) / 2:
            return f"{group.test} and name not in {_set(barred)}"
        return f"{group.test} and name in {_set(names)}"

    def _harmless(self, fact: ModuleFact, group: Group) -> bool:
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


def _on(module: str, line: str) -> str:
    """A statement with the expression of its module; names in it may have braces of their own."""
    return line.replace("{m}", module)


def _quoted(name: str) -> str:
    return f'"{name}"' if name.isprintable() and not {'"', "\\"} & set(name) else repr(name)


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
    quoted = [_quoted(name) for name in names]
    line = "{" + ", ".join(quoted) + "}"
    return line if len(line) < WIDTH / 2 else "{\n" + "".join(f"            {name},\n" for name in quoted) + "        }"

"""Every rule is registered, named after its defect, and documented by a page whose example it fires on."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest
import torch
from torch import nn

import initaudit
from initaudit import rules
from initaudit.rules import RULES, find_rule, rule_page
from initaudit.rules.base import Rule

SECTIONS = [
    "What it measures", "Why it matters", "Example that fires", "Remedy", "Limit and where it comes from", "References",
]  # fmt: skip
MODULES = [importlib.import_module(f"initaudit.rules.{info.name}") for info in pkgutil.iter_modules(rules.__path__)]
IN_FILES = [module.RULE for module in MODULES if isinstance(getattr(module, "RULE", None), Rule)]


def test_every_file_with_a_rule_is_registered_once() -> None:
    assert {id(rule) for rule in IN_FILES} == {id(rule) for rule in RULES}
    assert len(IN_FILES) == len(RULES) > 15


def test_codes_and_names_are_unique() -> None:
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
class TestEachRule:
    def test_code_and_name(self, rule: Rule) -> None:
        assert re.fullmatch(r"IA[1-59]\d\d", rule.code)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
        assert find_rule(rule.code) is find_rule(rule.name) is find_rule(rule.code.lower()) is rule

    def test_limit_has_a_unit_and_a_source(self, rule: Rule) -> None:
        assert rule.limit.unit
        assert rule.limit.source

    def test_page_has_its_sections_in_order(self, rule: Rule) -> None:
        page = rule_page(rule)
        assert page.startswith(f"# {rule.code} {rule.name}\n")
        headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
        assert [h for h in headings if h in SECTIONS] == SECTIONS
        first = page.split("\n\n")[1]
        assert first.endswith(".")
        assert "\n" not in first

    def test_example_fires_and_its_like_with_other_seeds_too(self, rule: Rule) -> None:
        (example,) = re.findall(r"## Example that fires\n+```python\n(.*?)```", rule_page(rule), re.DOTALL)
        for seed in (0, 1):
            torch.manual_seed(seed)
            namespace: dict[str, object] = {}
            exec(compile(example, f"{rule.code} example", "exec"), namespace)
            target = namespace.get("model") or namespace.get("make_model") or namespace.get("build_model")
            assert isinstance(target, nn.Module) or callable(target)
            report = initaudit.audit(target, namespace.get("inputs"), seed=seed)  # type: ignore[arg-type]
            assert rule.code in {f.code for f in report.findings}
            assert all(f.severity.rank >= rule.severity.rank for f in report.findings if f.code == rule.code)

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from initaudit.records import Attention, Gate, Op, Recurrence, Report, Role, Severity
from initaudit.report.json import audit_to_dict, render_json

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "json-schema.json").read_text(encoding="utf-8"))
TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def faults(value: Any, schema: dict[str, Any], path: str = "$") -> list[str]:
    """What is wrong with ``value``, by the keywords of JSON Schema that the schema uses; others are refused.

    Stricter than the schema in one point: a key that it does not describe is a fault.
    """
    known = {"$ref", "anyOf", "enum", "const", "type", "required", "properties", "items", "minimum"}
    assert set(schema) <= known | {"description", "title", "$schema", "$id", "$defs"}, path
    if "$ref" in schema:
        return faults(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], path)
    if "anyOf" in schema:
        return [] if any(not faults(value, option, path) for option in schema["anyOf"]) else [f"{path}: no option fits"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{path}: {value!r} is not among the values"]
    kinds = schema.get("type", [])
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return [f"{path}: {value!r} is no {kinds}"]
    found = (
        [f"{path}: {value!r} below {schema['minimum']}"]
        if _is(value, "number") and value < schema.get("minimum", value)
        else []
    )
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{path}: {key} is missing" for key in schema.get("required", []) if key not in value]
        found += [f"{path}: {key} is not in the schema" for key in value if key not in properties]
        for key, item in value.items():
            found += faults(item, properties.get(key, {}), f"{path}.{key}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += faults(item, schema.get("items", {}), f"{path}[{index}]")
    return found


def _is(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[kind])


def parse(text: str) -> Any:
    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def reports(make: ModuleType) -> list[Report]:
    exploded = make.stats(1.0, rms=math.inf, max=math.inf, min=-math.inf, mean=math.nan, nonfinite=7)
    layer = make.layer("head", after=exploded, gradient=None, activation=None)
    warned = make.report(layer, findings=(make.finding(severity=Severity.WARNING, observed=math.inf),))
    return [make.vanishing(), make.glorot(), warned, make.failed()]


def test_the_document_obeys_its_schema(reports: list[Report]) -> None:
    assert faults(parse(render_json(reports)), SCHEMA) == []


def test_the_schema_check_can_fail(reports: list[Report]) -> None:
    document = parse(render_json(reports))
    document["audits"][0]["layers"][0]["weight"]["std"] = "wide"
    del document["summary"]["passed"]
    document["extra"] = 1
    found = "\n".join(faults(document, SCHEMA))
    assert "layers[0].weight.std" in found
    assert "passed is missing" in found
    assert "extra is not in the schema" in found


def test_the_head_and_the_summary(reports: list[Report]) -> None:
    document = parse(render_json(reports))
    assert document["schema_version"] == 1
    assert document["tool"]["name"] == "initaudit"
    assert document["environment"] == {"torch": "2.13.0", "device": "cpu", "dtype": "float32", "seed": 0, "ranks": 1}
    assert document["summary"] == {
        "passed": 2,
        "failed": 1,
        "errors": 1,
        "findings": {"error": 1, "warning": 2, "note": 1},
    }
    assert [audit["verdict"] for audit in document["audits"]] == ["fail", "pass", "pass", "error"]


def test_an_audit(make: ModuleType) -> None:
    audit = audit_to_dict(make.vanishing())
    assert audit["target"] == "model.py::Net"
    assert audit["error"] is None
    assert audit["inputs"] == "float32[32,256]"
    assert audit["inputs_source"] == "inferred from Linear(256, 256)"
    assert audit["seconds"] == 0.42
    assert audit["not_judged"] == [{"fqn": "head", "reason": "never called"}]
    assert audit["uncalled"] == ["head"]
    finding = audit["findings"][0]
    assert (finding["code"], finding["severity"], finding["fqn"]) == ("IA101", "error", "body.0")
    assert finding["root_cause"] is True
    assert finding["affected"][:2] == ["body.2", "body.4"]
    assert finding["advice"]["code"] == 'nn.init.kaiming_normal_(m.body[0].weight, nonlinearity="relu")'
    assert audit["findings"][1]["advice"] is None


def test_attentions_and_recurrences(make: ModuleType) -> None:
    op = Op(0, "softmax", Role.ATTENTION, "blocks.0.attn")
    attention = Attention(0, keys=16.0, logit_std=1.0, entropy=0.9, concentration=math.nan, saturated=0.0)
    gates = (Gate("update", open=0.5, input_bias=0.1, state_bias=-0.1),)
    recurrence = Recurrence(0, "gru.weight_hh_l0", "gru", 20, 64, retention=math.inf, saturated=0.0, gates=gates)
    report = make.report(ops=(op,), attentions=(attention,), recurrences=(recurrence,))
    document = parse(render_json([report]))
    assert faults(document, SCHEMA) == []
    (audit,) = document["audits"]
    assert audit["attentions"][0]["fqn"] == "blocks.0.attn"
    assert (audit["attentions"][0]["concentration"], audit["attentions"][0]["token_spread"]) == ("nan", None)
    assert (audit["recurrences"][0]["steps"], audit["recurrences"][0]["retention"]) == (20, "inf")
    assert audit["recurrences"][0]["gates"] == [{"name": "update", "open": 0.5, "input_bias": 0.1, "state_bias": -0.1}]
    empty = audit_to_dict(make.failed())
    assert empty["attentions"] == empty["recurrences"] == []


def test_a_layer(make: ModuleType) -> None:
    layer = audit_to_dict(make.vanishing())["layers"][0]
    assert {key: layer[key] for key in ("fqn", "kind", "calls", "fan_in", "fan_out", "nonlinearity")} == {
        "fqn": "body.0",
        "kind": "Linear",
        "calls": 1,
        "fan_in": 256,
        "fan_out": 256,
        "nonlinearity": "relu",
    }
    assert isinstance(layer["fan_in"], int)
    assert layer["weight"]["std"] == 0.0361
    assert layer["weight"]["expected_std"] == pytest.approx(math.sqrt(2 / 256))
    assert layer["weight"]["init"] == "kaiming_uniform(a=sqrt(5))"
    assert layer["pre_activation"]["rms"] == 0.577
    assert layer["activation"]["histogram"]["limit"] == 4.0


def test_statistics_are_those_of_all_calls(make: ModuleType) -> None:
    twice = make.layer("shared", calls=2)
    layer = audit_to_dict(make.report(twice))["layers"][0]
    assert layer["calls"] == 2
    assert layer["pre_activation"]["count"] == 2 * twice.calls[0].pre_activation.count
    assert layer["pre_activation"]["rms"] == pytest.approx(1.0)


def test_a_layer_that_was_not_run_has_no_statistics(make: ModuleType) -> None:
    layer = audit_to_dict(make.report(make.layer("idle", calls=0)))["layers"][0]
    assert (layer["calls"], layer["nonlinearity"], layer["activation"], layer["gradient"]) == (0, None, None, None)


def test_non_finite_numbers_are_strings(reports: list[Report]) -> None:
    audit = parse(render_json(reports))["audits"][2]
    activation = audit["layers"][0]["activation"]
    assert (activation["max"], activation["min"], activation["mean"]) == ("inf", "-inf", "nan")
    assert audit["findings"][0]["observed"] == "inf"


def test_a_model_that_did_not_run(make: ModuleType) -> None:
    audit = audit_to_dict(make.failed("forward", "it raised"))
    assert audit["verdict"] == "error"
    assert audit["error"] == {"stage": "forward", "message": "it raised"}
    assert (audit["inputs"], audit["layers"], audit["findings"]) == (None, [], [])


def test_without_any_report_the_environment_is_unknown() -> None:
    document = parse(render_json([]))
    assert faults(document, SCHEMA) == []
    assert document["environment"] == dict.fromkeys(["torch", "device", "dtype", "seed", "ranks"])


def test_a_report_gives_its_own_json(make: ModuleType) -> None:
    report = make.vanishing()
    assert parse(report.to_json())["audits"] == [parse(json.dumps(report.to_dict()))]


def test_several_draws(make: ModuleType) -> None:
    one, several = make.vanishing(), make.vanishing()
    findings = tuple(replace(finding, draws=(3, 5)) for finding in several.findings)
    several = replace(several, seeds=(3, 4, 5), findings=findings)
    assert faults(parse(render_json([several])), SCHEMA) == []
    assert (audit_to_dict(one)["seeds"], audit_to_dict(several)["seeds"]) == ([], [3, 4, 5])
    assert [audit_to_dict(r)["findings"][0]["draws"] for r in (one, several)] == [[], [3, 5]]


def test_where_the_values_of_a_parameter_come_from(make: ModuleType) -> None:
    layer = make.layer("head")
    report = make.report(layer)
    known = replace(make.parameter("head.weight"), reproducible=True, follows_seed=False, copy_of="body.weight")
    trace = replace(report.trace, parameters=(make.parameter("body.weight"), known))
    unknown, found = audit_to_dict(replace(report, trace=trace))["parameters"]
    keys = ("reproducible", "follows_seed", "copy_of")
    assert [unknown[key] for key in keys] == [None, None, None]
    assert [found[key] for key in keys] == [True, False, "body.weight"]

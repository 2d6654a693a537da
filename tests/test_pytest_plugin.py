"""The plugin, seen through runs of pytest inside pytest.

Most inner runs get a stand-in for the engine and the loader, so that they need no torch; the last ones are real.
"""

from importlib.metadata import entry_points
from textwrap import dedent

import pytest

pytest_plugins = ["pytester"]

INSTALLED = any(entry.name == "initaudit" for entry in entry_points(group="pytest11"))
PLUGIN = ("-p", "initaudit.pytest_plugin")

STAND_IN = """
    import os, sys
    from pathlib import Path
    from types import ModuleType, SimpleNamespace
    from initaudit.errors import AuditError
    from initaudit.records import Finding, Report, Severity

    SEEN = []

    def judge(name, ignore):
        severity = {"bad": Severity.ERROR, "so_so": Severity.WARNING}.get(name)
        found = [Finding("IA101", "vanishing", severity, "body.0", f"{name} vanishes")] if severity else []
        return Report(name, tuple(f for f in found if f.code not in ignore))

    def audit(model, inputs=None, **options):
        SEEN.append((model, inputs, options))
        if model == "broken":
            raise AuditError("forward", "broken raised ValueError: no") from ValueError("no")
        return judge(model, options["ignore"])

    def audit_target(target, *, ignore):
        if target.name == "broken":
            raise AuditError("forward", "broken raised ValueError: no")
        return judge(target.name, ignore)

    def collect(spec):
        location, _, name = spec.partition("::")
        if not os.path.exists(location):
            raise AuditError("load", f"{location} does not exist")
        names = [name] if name else Path(location).read_text().split()
        return [SimpleNamespace(id=f"{location}::{name}", name=name) for name in names]

    for name, members in {
        "initaudit.engine": {"audit": audit, "audit_target": audit_target},
        "initaudit.target.load": {"collect": collect, "explain_nothing": lambda spec: f"no model in {spec}"},
    }.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(members)
"""


@pytest.fixture(autouse=True)
def only_this_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # inner runs would import every plugin there is


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(dedent(STAND_IN))
    return pytester


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider", *args)


def models(pytester: pytest.Pytester, *names: str, file: str = "model.py") -> str:
    (pytester.path / file).write_text("\n".join(names), encoding="utf-8")
    return file


# The fixture and the marker


def test_the_fixture_asserts_and_returns_the_report(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        """
        def test_good(initaudit):
            assert initaudit("good").target == "good"

        def test_bad(initaudit):
            initaudit("bad")
        """
    )
    result = run(inner)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *AssertionError: bad is not well initialized: 1 error",
            "E *error IA101 vanishing at body.0",
            "E *bad vanishes",
            'E *silence: ignore=[[]"IA101"[]]',
        ]
    )
    assert "pytest_plugin.py" not in result.stdout.str()
    assert "assert_initialized(" not in result.stdout.str()


def test_a_model_that_cannot_run_is_told_without_the_frames_of_the_audit(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        """
        def test_broken(initaudit):
            initaudit("broken")
        """
    )
    result = run(inner)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *AuditError: broken raised ValueError: no"])
    result.stdout.no_fnmatch_line("*direct cause*")
    result.stdout.no_fnmatch_line("*raise AuditError*")


def test_inputs_and_options_reach_the_audit(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        """
        from conftest import SEEN

        def test_it(initaudit):
            initaudit("good", "float32[2,3]", seed=5, seeds=3, dtype="bfloat16")
            (model, inputs, options), = SEEN
            assert (model, inputs, options["seed"], options["dtype"]) == ("good", "float32[2,3]", 5, "bfloat16")
            assert options["seeds"] == 3
        """
    )
    run(inner).assert_outcomes(passed=1)


def test_the_marker_gives_options_and_the_closest_wins(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.initaudit(fail_on="warning")

        def test_module_marker(initaudit):
            with pytest.raises(AssertionError):
                initaudit("so_so")

        @pytest.mark.initaudit(ignore=["IA101"])
        def test_markers_add_up(initaudit):
            initaudit("so_so")
            initaudit("bad")

        @pytest.mark.initaudit(fail_on="error")
        def test_function_marker(initaudit):
            initaudit("so_so")

        @pytest.mark.initaudit(fail_on="error")
        def test_call_wins_over_marker(initaudit):
            with pytest.raises(AssertionError):
                initaudit("so_so", fail_on="warning")
        """
    )
    run(inner, "--strict-markers").assert_outcomes(passed=4)


def test_a_marker_without_keywords_says_what_it_takes(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        """
        import pytest

        @pytest.mark.initaudit("IA101")
        def test_it(initaudit):
            initaudit("bad")
        """
    )
    result = run(inner)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the marker initaudit has ('IA101',), expected keywords such as ignore=*"])


def test_the_marker_is_documented(inner: pytest.Pytester) -> None:
    run(inner, "--markers").stdout.fnmatch_lines(
        ["@pytest.mark.initaudit(fail_on=*): options of the initaudit fixture*"]
    )


# The settings


@pytest.mark.parametrize("setting", ["initaudit_ignore = IA101 IA305", "initaudit_fail_on = never"])
def test_settings_hold_for_fixture_and_models(inner: pytest.Pytester, setting: str) -> None:
    inner.makeini(f"[pytest]\n{setting}\n")
    inner.makepyfile("def test_bad(initaudit): initaudit('bad')")
    run(inner, "--initaudit", models(inner, "bad")).assert_outcomes(passed=2)


def test_a_setting_that_makes_no_sense_is_a_usage_error(inner: pytest.Pytester) -> None:
    inner.makeini("[pytest]\ninitaudit_fail_on = sometimes\n")
    result = run(inner)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*initaudit_fail_on is 'sometimes', expected one of error, warning, note, never"])


# Models as items


def test_models_are_items_beside_the_tests(inner: pytest.Pytester) -> None:
    inner.makepyfile("def test_plain(): pass")
    result = run(inner, "-v", "--initaudit", models(inner, "good", "bad"))
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*::test_plain PASSED*", "model.py::good PASSED*", "model.py::bad FAILED*"])


def test_a_failure_is_the_message_without_a_traceback(inner: pytest.Pytester) -> None:
    result = run(inner, "--initaudit", models(inner, "bad"))
    lines = result.stdout.lines
    start = next(i for i, line in enumerate(lines) if "model bad" in line)
    assert lines[start + 1 : start + 6] == [
        "bad is not well initialized: 1 error",
        "",
        "error IA101 vanishing at body.0",
        "  bad vanishes",
        '  silence: ignore=["IA101"]',
    ]
    assert "Traceback" not in result.stdout.str()


def test_a_model_that_cannot_run_is_an_error(inner: pytest.Pytester) -> None:
    result = run(inner, "--initaudit", models(inner, "good", "broken"))
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of model broken*", "broken raised ValueError: no"])
    assert "Traceback" not in result.stdout.str()
    assert "another exception" not in result.stdout.str()


def test_a_file_that_cannot_be_loaded_is_an_error_and_the_text_is_shown(inner: pytest.Pytester) -> None:
    result = run(inner, "--initaudit", "missing.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR collecting missing.py*", "missing.py does not exist"])
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_a_file_without_models_is_an_error(inner: pytest.Pytester) -> None:
    result = run(inner, "--initaudit", models(inner))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no model in model.py"])


def test_one_model_several_times_and_from_another_folder(
    inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(inner, "good", "bad")
    nested = inner.mkdir("nested")
    models(inner, "fine", file="nested/other.py")
    monkeypatch.chdir(nested)
    first = ("--initaudit", "../model.py::good")
    args = (*first, *first, "--initaudit", "other.py", "--rootdir", str(inner.path), str(nested))
    assert run(inner, "--collect-only", "-q", *args).stdout.lines[:2] == ["model.py::good", "nested/other.py::fine"]
    result = run(inner, "-v", *args)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["../model.py::good PASSED*", "other.py::fine PASSED*"], consecutive=True)


def test_collect_only(inner: pytest.Pytester) -> None:
    result = run(inner, "--collect-only", "-q", "--initaudit", models(inner, "good", "bad"))
    assert result.stdout.lines[:2] == ["model.py::good", "model.py::bad"]
    tree = run(inner, "--collect-only", "--initaudit", "model.py")
    tree.stdout.fnmatch_lines(["*<ModelSource model.py>", "*<ModelItem good>", "*<ModelItem bad>"])


def test_expressions_select_models(inner: pytest.Pytester) -> None:
    inner.makepyfile("def test_plain(): pass")
    run(inner, "-k", "good", "--initaudit", models(inner, "good", "bad")).assert_outcomes(passed=1, deselected=2)


def test_last_failed_reruns_the_model_that_failed(inner: pytest.Pytester) -> None:
    args = (*PLUGIN, "--initaudit", models(inner, "good", "bad"))
    inner.runpytest_inprocess(*args).assert_outcomes(passed=1, failed=1)
    inner.runpytest_inprocess(*args, "--lf").assert_outcomes(failed=1, deselected=1)


def test_workers_of_xdist_share_the_models(inner: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    inner.makepyfile("def test_plain(initaudit): initaudit('good')")
    result = run(inner, "-p", "xdist", "-n", "2", "--initaudit", models(inner, "good", "bad"))
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["bad is not well initialized: 1 error", "FAILED model.py::bad*"])


# The whole thing, in a process of its own


def test_a_run_that_audits_nothing_imports_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("initaudit.pytest_plugin")
            assert "torch" not in sys.modules
            assert "rich.console" not in sys.modules
            # As large as all the rest of the command's start: what an audit needs comes with the first audit.
            assert "initaudit.records" not in sys.modules
        """
    )
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)


@pytest.mark.skipif(not INSTALLED, reason="without its entry point the plugin is never active by itself")
def test_it_is_active_on_install_and_can_be_switched_off(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    pytester.makepyfile("def test_it(initaudit): pass")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    switched_off = pytester.runpytest_subprocess("-p", "no:initaudit")
    switched_off.assert_outcomes(errors=1)
    switched_off.stdout.fnmatch_lines(["*fixture 'initaudit' not found"])


def test_real_models(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (pytester.path / "nets.py").write_text(
        dedent(
            """
            from torch import nn

            def stack(cured):
                layers = [nn.Linear(64, 64) for _ in range(20)]
                for layer in layers:
                    if cured:
                        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                        nn.init.zeros_(layer.bias)
                return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())), nn.Linear(64, 10))

            def build_cured() -> nn.Module:
                return stack(True)

            def build_default() -> nn.Module:
                return stack(False)
            """
        ),
        encoding="utf-8",
    )
    pytester.makepyfile("def test_it(initaudit): from nets import stack; initaudit(lambda: stack(True))")
    result = pytester.runpytest_subprocess(*PLUGIN, "-v", "--initaudit", "nets.py")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["nets.py::build_cured PASSED*", "nets.py::build_default FAILED*"])
    result.stdout.fnmatch_lines(
        ["nets.py::build_default is not well initialized: *", "*nn.init.kaiming_*(*nonlinearity=*"]
    )

"""The pytest plugin: fixture ``initaudit``, marker ``initaudit``, and models as test items with ``--initaudit``.

torch is not imported before a model is: a test run that audits nothing pays nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from initaudit.choices import check_fail_on
from initaudit.errors import InitauditError, UsageError

if TYPE_CHECKING:
    from initaudit.records import Report
    from initaudit.target.load import Target


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option ``--initaudit`` and the ini settings."""
    group = parser.getgroup("initaudit", "initialization of PyTorch models")
    group.addoption(
        "--initaudit",
        action="append",
        default=[],
        metavar="TARGET",
        help="audit the models of model.py (or model.py::Name, a directory, package.module:attr) as tests, "
        "besides the tests that are collected; may be repeated",
    )
    parser.addini("initaudit_fail_on", "least severity that fails: error, warning, note or never", default="error")
    parser.addini("initaudit_ignore", "codes of rules that no audit applies", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse settings that make no sense before anything is collected."""
    config.addinivalue_line(
        "markers", 'initaudit(fail_on="error", ignore=[...]): options of the initaudit fixture in this test'
    )
    try:
        check_fail_on(config.getini("initaudit_fail_on"))
    except UsageError as error:
        raise pytest.UsageError(f"initaudit_{error}") from error


@pytest.fixture(name="initaudit")
def initaudit_fixture(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Assert that a model is well initialized: ``initaudit(model, inputs=None, **options)`` returns the report.

    The options are those of ``initaudit.assert_initialized``; the marker ``initaudit`` gives them for a whole test,
    class or module, the settings ``initaudit_fail_on`` and ``initaudit_ignore`` for all tests.
    """
    defaults = _settings(request.config)
    for marker in reversed(list(request.node.iter_markers("initaudit"))):  # the closest comes last and wins
        if marker.args:
            raise UsageError(f"the marker initaudit has {marker.args!r}, expected keywords such as ignore=['IA101']")
        defaults |= marker.kwargs

    def check(model: Any, inputs: Any = None, **options: Any) -> Report:
        __tracebackhide__ = True
        from initaudit.testing import assert_initialized

        try:
            return assert_initialized(model, inputs, **(defaults | options))
        except InitauditError as error:
            # Its message names the line of the user's code; the frames of initaudit and torch would bury it.
            raise error.with_traceback(None) from None

    return check


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Add what ``--initaudit`` names to the top of the collection tree, beside what the arguments name."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        specs = dict.fromkeys(collector.config.getoption("--initaudit"))
        report.result = [*report.result, *(_source(collector, spec) for spec in specs)]
    return report


class ModelSource(pytest.Collector):
    """One TARGET of ``--initaudit``; importing it is part of the collection."""

    def __init__(self, *, spec: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def collect(self) -> Iterator[ModelItem]:
        """One item for each model."""
        from initaudit.probe.restore import random_state
        from initaudit.target.load import collect, explain_nothing

        try:
            with random_state(0):  # models and inputs that the file makes on import are random, too
                targets = collect(self.spec)
            if not targets:
                raise UsageError(explain_nothing(self.spec))
        except InitauditError as error:
            raise self.CollectError(str(error)) from error
        for target in targets:
            name = target.id.partition("::")[2] or target.name
            yield ModelItem.from_parent(self, name=name, nodeid=_node_id(self.config, target.id), target=target)


class ModelItem(pytest.Item):
    """The audit of one model. It runs as the set-up, so that a model that cannot be run is an error and no failure."""

    def __init__(self, *, target: Target, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target
        self.report: Report | None = None

    def setup(self) -> None:
        """Build and audit the model."""
        from initaudit.engine import audit_target
        from initaudit.testing import codes

        try:
            self.report = audit_target(self.target, ignore=codes(_settings(self.config)["ignore"]))
        except InitauditError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    def runtest(self) -> None:
        """Fail on findings at or above ``initaudit_fail_on``."""
        from initaudit.testing import failure_message

        assert self.report is not None
        if message := failure_message(self.report, _settings(self.config)["fail_on"]):
            pytest.fail(message, pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """The headline of a failure."""
        return self.path, None, f"model {self.name}"


def _settings(config: pytest.Config) -> dict[str, Any]:
    return {"fail_on": config.getini("initaudit_fail_on"), "ignore": config.getini("initaudit_ignore")}


def _source(session: pytest.Session, spec: str) -> ModelSource:
    location = spec.partition("::")[0]
    path = Path(os.path.abspath(location)) if os.path.exists(location) else session.path
    node_id = _node_id(session.config, spec)
    return ModelSource.from_parent(session, name=node_id, path=path, nodeid=node_id, spec=spec)


def _node_id(config: pytest.Config, name: str) -> str:
    """``name`` with its path, if it has one, as pytest writes it: relative to the root directory, with slashes."""
    location, separator, rest = name.partition("::")
    if os.path.exists(location):
        path = Path(os.path.abspath(location))
        location = (path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path).as_posix()
    return location + separator + rest

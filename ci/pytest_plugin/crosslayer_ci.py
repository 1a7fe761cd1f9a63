"""pytest plugin of every test session: no silent skips, no empty runs, hypothesis profiles.

With CI set, a skipped test is a failed one: what a test needs, CI installs. Outside CI a skip stays
a skip.
"""

from __future__ import annotations

import os

import pytest

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def pytest_configure(config: pytest.Config) -> None:
    """Load the hypothesis profile: in CI small and the same every time; never with a deadline."""
    try:
        from hypothesis import settings
    except ModuleNotFoundError:
        return
    settings.register_profile("crosslayer-ci", max_examples=25, deadline=None, derandomize=True)
    settings.register_profile("crosslayer-dev", max_examples=100, deadline=None)
    settings.load_profile("crosslayer-ci" if IN_CI else "crosslayer-dev")


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else where
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and CI allows no skips: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """A skip of one test."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):  # type: ignore[no-untyped-def]
    """A skip of a whole file, by importorskip at its top."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which no test passed has shown nothing, so it does not count as one that passed."""
    if hasattr(session.config, "workerinput"):
        return  # a worker of pytest-xdist; the process that started it counts
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    passed = terminal is not None and terminal.stats.get("passed")
    if exitstatus == pytest.ExitCode.OK and not passed and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

"""Says at the end of every run what was not tried, and why: a skip is a hole, and one that nobody sees is taken for a pass.

The suites' conftest modules, unit and e2e, take its hook for theirs.
"""

from __future__ import annotations

from collections import Counter

import pytest

_said = pytest.StashKey[bool]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Once, though both suites may run together."""
    if terminalreporter.config.stash.setdefault(_said, False):
        return
    terminalreporter.config.stash[_said] = True
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    if not reasons:
        return
    terminalreporter.section(f"NOT TRIED: {reasons.total()} tests", yellow=True)
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """pytest's own words for it begin with "Skipped: "."""
    _, _, why = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    return why.removeprefix("Skipped: ")

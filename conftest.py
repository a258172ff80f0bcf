"""Says at the end of every run what was not tried, and why: a skip is a hole, and one that nobody sees is taken for a pass."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
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

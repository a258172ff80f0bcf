"""The table says what was found."""

from __future__ import annotations

import pytest

from e2e.chaos.report import Findings, Tally, percentile, table, zeros


@pytest.mark.parametrize(("share", "value"), [(0.5, 5.0), (0.95, 10.0), (1.0, 10.0), (0.1, 1.0)])
def test_percentiles_are_values_that_were_measured(share: float, value: float) -> None:
    assert percentile([float(n) for n in range(10, 0, -1)], share) == value


def test_the_table_has_a_row_for_each_kind_and_one_for_all() -> None:
    lines = table({"a": Tally(struck=3, recoveries=[1.0, 2.0]), "b": Tally(missed=1)})
    assert [line.split() for line in lines[2:]] == [
        ["a", "3", "0", "2", "1.0", "2.0", "2.0"],
        ["b", "0", "1", "0", "-", "-", "-"],
        ["all", "3", "1", "2", "1.0", "2.0", "2.0"],
    ]


def test_a_zero_that_is_none_shows_and_spoils_the_run() -> None:
    findings, more = Findings(), Findings()
    findings.add("writes lost", [])
    assert findings.clean
    more.add("writes lost", ["a is gone"])
    findings.merge(more)
    findings.merge(more)
    assert not findings.clean
    assert zeros(findings)[0].split() == ["writes", "lost", "1"]
    assert findings.told() == ["    writes lost: a is gone"]

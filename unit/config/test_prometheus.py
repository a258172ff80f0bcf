"""Rules and dashboard by themselves, as promtool sees them; `e2e` holds them against what a running node process says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.prometheus import FOLDER, alerts, check, dashboard_queries, metrics_in, rule_file, scrape_job, write_configuration

from .alert_cases import CASES, IN_TROUBLE, Case
from .manifests import CONFIG, needs_kubectl, one

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool, which is in Debian's prometheus")


@needs_promtool
def test_prometheus_takes_rules_and_scrape_configuration(tmp_path: Path) -> None:
    write_configuration(tmp_path, scrape=scrape_job([]), rules=rule_file())


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_is_wrong_and_what_to_do(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert all(rule["annotations"].values())


@pytest.mark.parametrize("expression", [rule["expr"] for rule in alerts().values()] + [q.expression for q in dashboard_queries()])
def test_only_dynvols_own_series_are_looked_at(expression: str) -> None:
    """Others have workqueue_depth, up and the like too."""
    selectors = re.findall(r"\{[^}]*\}", expression)
    assert selectors
    assert all('job="dynvol"' in selector for selector in selectors)
    assert len(selectors) == len(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*\{", expression))


@needs_promtool
def test_every_alert_fires_when_it_must_and_not_before(tmp_path: Path) -> None:
    assert [case.alert for case in CASES] == list(alerts())
    promtool_test(tmp_path, [story(case) for case in CASES])


@needs_promtool
def test_panels_that_are_empty_while_all_is_well_show_trouble(tmp_path: Path) -> None:
    queries = {q.panel: q.expression for q in dashboard_queries() if q.only_in_trouble}
    assert queries.keys() == IN_TROUBLE.keys()
    stories = [
        {"interval": "15s", "input_series": inputs(IN_TROUBLE[panel]), "promql_expr_test": [holds(f"count({query})", at="2m")]}
        for panel, query in queries.items()
    ]
    promtool_test(tmp_path, stories)


@needs_kubectl
def test_the_operators_objects_and_the_plain_files_say_the_same() -> None:
    assert one("prometheus", "PrometheusRule")["spec"] == rule_file()
    assert json.loads(one("prometheus", "ConfigMap")["data"]["dashboard.json"])["title"] == "dynvol"
    (plain,) = yaml.safe_load((FOLDER / "scrape.yaml").read_text())["scrape_configs"]
    (endpoint,) = one("prometheus", "PodMonitor")["spec"]["podMetricsEndpoints"]
    by_operator = {r["targetLabel"]: r["sourceLabels"] for r in endpoint["relabelings"]}
    by_file = {r["target_label"]: r["source_labels"] for r in plain["relabel_configs"] if "target_label" in r}
    assert by_operator.items() <= by_file.items()
    assert plain["scrape_interval"] == endpoint["interval"]


def test_panels_have_their_own_place_and_a_unit() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or (panel["targets"] and panel["fieldConfig"]["defaults"]["unit"])


def test_the_readme_lists_every_alert() -> None:
    listed = re.findall(r"^\| `(Dynvol\w+)` \| (critical|warning) \|", (CONFIG / "README.md").read_text(), re.MULTILINE)
    assert listed == [(name, rule["labels"]["severity"]) for name, rule in alerts().items()]


def test_every_expression_names_its_metrics() -> None:
    assert all(metrics_in(rule["expr"]) for rule in alerts().values())


def story(case: Case) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})'
    return {
        "name": case.alert,
        "interval": "1m",
        "input_series": inputs(case.series),
        "promql_expr_test": [holds(firing, at=case.quiet_at, count=0), holds(firing, at=case.fires_at)],
    }


def inputs(series: dict[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in series.items()]


def holds(expression: str, *, at: str, count: int = 1) -> dict[str, Any]:
    """`count` 0: the expression has no answer."""
    return {"expr": expression, "eval_time": at, "exp_samples": [{"labels": "{}", "value": count}] if count else []}


def promtool_test(folder: Path, stories: Iterable[dict[str, Any]]) -> None:
    rules, tests = folder / "rules.json", folder / "tests.json"
    rules.write_text(json.dumps(rule_file()))
    tests.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": list(stories)}))
    check("test", "rules", str(tests))

"""What config/prometheus holds for Prometheus, and a real Prometheus to hold it against.

The server runs with one configuration, on a port and in a folder of its own, and is gone with its block. Nothing here knows what
the metrics mean.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml

from e2e.grounds.envtest import free_ports
from e2e.kubectl import clean_environment, eventually

FOLDER: Final = Path(__file__).resolve().parents[1] / "config" / "prometheus"
START_DEADLINE: Final = 30.0
STOP_DEADLINE: Final = 10.0
ONLY_IN_TROUBLE: Final = "Only in trouble: "
"""How the description of a panel begins that is empty so long as all is well; the reason follows."""

Manifest = dict[str, Any]


def rule_file() -> Manifest:
    """The PrometheusRule's rules, in the form of a rule file."""
    return cast("Manifest", yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"])


def alerts() -> dict[str, Manifest]:
    """All alerting rules by name."""
    return {rule["alert"]: rule for group in rule_file()["groups"] for rule in group["rules"]}


@dataclass(frozen=True, slots=True)
class Query:
    """One question of one panel of the dashboard, as Grafana would ask it for all nodes and the last minute."""

    panel: str
    expression: str
    only_in_trouble: bool


def dashboard_queries() -> list[Query]:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    return [
        Query(panel["title"], _filled_in(target["expr"]), panel.get("description", "").startswith(ONLY_IN_TROUBLE))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def _filled_in(expression: str) -> str:
    """With values for Grafana's variables. Raises ValueError for one that is not known here."""
    filled = expression.replace("$__rate_interval", "1m").replace("$node", ".*")
    if "$" in filled:
        raise ValueError(f"a variable without a value: {filled}")
    return filled


def metrics_in(expression: str) -> set[str]:
    """The names of the metrics that an expression selects. Ours always have a selector in braces; functions have none."""
    return set(re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{", expression))


def scrape_job(pods: Iterable[Manifest]) -> Manifest:
    """scrape.yaml's job with these pods as targets. Debian's Prometheus is built without the discovery of pods, so what that
    would find is written down for it, and relabelled as it would be."""
    (job,) = yaml.safe_load((FOLDER / "scrape.yaml").read_text())["scrape_configs"]
    del job["kubernetes_sd_configs"], job["scrape_interval"]
    found = [_discovered(pod, port) for pod in pods for c in pod["spec"]["containers"] for port in c.get("ports", ())]
    return {**job, "static_configs": found}


def _discovered(pod: Manifest, port: Manifest) -> Manifest:
    """A target as Prometheus' role `pod` makes one of each port."""
    meta = pod["metadata"]
    facts = {
        "namespace": meta["namespace"],
        "pod_name": meta["name"],
        "pod_node_name": pod["spec"]["nodeName"],
        "pod_phase": pod["status"]["phase"],
        "pod_container_port_name": port["name"],
    } | {f"pod_label_{re.sub('[^a-zA-Z0-9]', '_', key)}": value for key, value in meta["labels"].items()}
    labels = {f"__meta_kubernetes_{name}": value for name, value in facts.items()}
    return {"targets": [f"{pod['status']['podIP']}:{port['containerPort']}"], "labels": labels}


def check(*arguments: str) -> str:
    """Runs promtool. Raises AssertionError with what it said."""
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False, env=clean_environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def ask(self, expression: str) -> list[Sample]:
        """An instant query of now. AssertionError if Prometheus refuses it."""
        result = self._get("query", query=expression)["result"]
        return [Sample(r["metric"], float(r["value"][1])) for r in result]

    def number(self, expression: str) -> float:
        """The answer of a query that has one. AssertionError if it has none, or several."""
        samples = self.ask(expression)
        assert len(samples) == 1, f"{expression}: {samples}"
        return samples[0].value

    def metric_names(self) -> set[str]:
        return set(self._get("label/__name__/values"))

    def targets(self) -> list[Manifest]:
        return cast("list[Manifest]", self._get("targets", state="active")["activeTargets"])

    def rules(self) -> list[Manifest]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def active(self) -> list[Manifest]:
        """Alerts that fire, and those that would if what they say lasted."""
        return cast("list[Manifest]", self._get("alerts")["alerts"])

    def firing(self, alert: str) -> list[Manifest]:
        return [a for a in self.active() if a["labels"]["alertname"] == alert and a["state"] == "firing"]

    def is_ready(self) -> bool:
        try:
            with _open(f"{self.url}/-/ready") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, what: str, **parameters: str) -> Any:
        try:
            with _open(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{what} {parameters}: {error.read().decode()}") from None


def _open(url: str) -> Any:
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10)


@contextmanager
def prometheus(folder: Path, *, scrape: Manifest, rules: Manifest) -> Iterator[Prometheus]:
    """Runs Prometheus, and ends it with the block. It asks and evaluates every second."""
    config = write_configuration(folder, scrape=scrape, rules=rules)
    (port,) = free_ports(1)
    server = Prometheus(f"http://127.0.0.1:{port}")
    command = [
        # Should the suite be killed, so is the server.
        "setpriv",
        "--pdeathsig=TERM",
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=clean_environment(), cwd=folder
        ) as process,
    ):
        try:
            eventually(lambda: process.poll() is not None or server.is_ready(), within=START_DEADLINE, what=f"ready; see {log}")
            assert process.poll() is None, log.read_text()
            yield server
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()


def write_configuration(folder: Path, *, scrape: Manifest, rules: Manifest) -> Path:
    """Writes both files, and has them checked by promtool. Returns the configuration's path."""
    rule_path, config_path = folder / "rules.json", folder / "prometheus.json"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rule_path)],
        "scrape_configs": [scrape],
    }
    rule_path.write_text(json.dumps(rules))
    config_path.write_text(json.dumps(config))
    check("check", "config", str(config_path))
    return config_path

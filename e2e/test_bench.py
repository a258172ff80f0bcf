"""hack/bench runs, and what it prints is whole. How fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.bench.figure import Figure, Series, at_most, table
from e2e.kubectl import clean_environment

PROJECT = Path(__file__).resolve().parents[1]


def test_every_figure_has_samples_and_what_it_is_held_against(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if request.config.option.kubeconfig:
        pytest.skip("the measurement brings up a cluster of its own")
    command = [sys.executable, "-m", "e2e.bench", "--short", "--apiserver", "own", "--json", str(tmp_path / "figures.json")]
    environment = {**clean_environment(), "PYTHONPATH": str(PROJECT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*command, "--plot", str(tmp_path)], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert {f["name"] for f in figures} >= {"warm claim, s3fs", "cold claim, s3fs", "NodePublishVolume"}
    for figure in figures:
        assert min(figure["measured"]["samples"] + figure["against"]["samples"]) > 0
        assert f"| {figure['name']} (" in done.stdout
    assert list(tmp_path.glob("warm-claim*.png"))


def test_the_table_says_what_was_reached_and_what_was_not() -> None:
    floor = Series("floor", (1.0, 2.0, 3.0))
    figures = [
        Figure(name, "ms", Series(name, samples), floor, "2 ×", at_most(lambda median: 2 * median))
        for name, samples in (("quick", (1.0, 4.0, 5.0)), ("slow", (4.0, 5.0, 60.0)))
    ]
    quick, slow = table(figures).splitlines()[2:]
    assert quick == "| quick (ms) | 4.00 | 5.00 | 5.00 | 3 | floor | 2.00 | 2.00 | 2 × | yes |"
    assert slow.endswith("| NO |")

"""hack/bench runs, and what it prints is whole. How fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from e2e.bench.figure import Figure, Series, at_most, table
from e2e.bench.runtime import SUBJECTS
from e2e.kubectl import clean_environment

PROJECT = Path(__file__).resolve().parents[1]


def figures_of(*subjects: str, folder: Path) -> dict[str, Any]:
    """What a short run prints, keeps and draws of these: all of it whole."""
    only = [word for subject in subjects for word in ("--only", subject)]
    kept = folder / "figures.json"
    command = [
        sys.executable,
        "-m",
        "e2e.bench",
        "--short",
        "--apiserver",
        "own",
        *only,
        "--json",
        str(kept),
        "--plot",
        str(folder),
    ]
    environment = {**clean_environment(), "PYTHONPATH": str(PROJECT), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {figure["name"]: figure for figure in json.loads(kept.read_text())["figures"]}
    for name, figure in figures.items():
        assert f"| {name} (" in done.stdout
        assert min(figure["measured"]["samples"]) >= 0
    return figures


@pytest.mark.timeout(320)
def test_every_figure_of_mounts_has_samples_and_what_it_is_held_against(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if request.config.option.kubeconfig:
        pytest.skip("the measurement brings up a cluster of its own")
    figures = figures_of("claims", "calls", "writes", folder=tmp_path)
    assert figures.keys() >= {
        "warm claim, s3fs",
        "cold claim, s3fs",
        "NodePublishVolume",
        "API writes for a warm claim until Ready, s3fs",
    }
    assert all(min(figure["against"]["samples"]) > 0 for figure in figures.values())
    assert list(tmp_path.glob("warm-claim*.png"))


@pytest.mark.timeout(320)
@pytest.mark.parametrize("half", [0, 1])
def test_every_figure_of_the_runtime_has_samples(request: pytest.FixtureRequest, tmp_path: Path, half: int) -> None:
    """Those of several subjects at once: each needs what takes the longest, a Python with all of it imported."""
    if request.config.option.kubeconfig:
        pytest.skip("the measurement brings up API servers of its own")
    subjects = list(SUBJECTS)[half::2]
    assert len(figures_of(*subjects, folder=tmp_path)) >= 2 * len(subjects)


def test_the_table_says_what_was_reached_and_what_was_not() -> None:
    floor = Series("floor", (1.0, 2.0, 3.0))
    figures = [
        Figure(name, "ms", Series(name, samples), floor, "2 ×", at_most(lambda median: 2 * median))
        for name, samples in (("quick", (1.0, 4.0, 5.0)), ("slow", (4.0, 5.0, 60.0)))
    ]
    quick, slow = table(figures).splitlines()[2:]
    assert quick == "| quick (ms) | 4.00 | 5.00 | 5.00 | 3 | floor | 2.00 | 2.00 | 2 × | yes |"
    assert slow.endswith("| NO |")

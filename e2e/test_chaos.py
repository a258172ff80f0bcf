"""Everything that may happen to a cluster happens to it within a minute or so, and nothing is lost, wrong or left. The long form is
hack/chaos."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.kubectl import clean_environment

PROJECT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(330)
def test_whatever_breaks_nothing_is_lost_and_nothing_leaks(request: pytest.FixtureRequest) -> None:
    if request.config.option.kubeconfig:
        pytest.skip("the faults are for a cluster of their own")
    if not os.environ.get("DYNVOL_LONG"):
        pytest.skip("takes minutes, and wants a machine to itself: set DYNVOL_LONG=1")
    environment = {**clean_environment(), "PYTHONPATH": str(PROJECT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "e2e.chaos", "--seconds", "75", "--seed", "1"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "writes lost                              0" in done.stdout

"""Everything that may happen to a cluster happens to it once within a minute, and nothing is lost, wrong or left. The long form is
hack/chaos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.chaos.faults import FAULTS
from e2e.kubectl import clean_environment

PROJECT = Path(__file__).resolve().parents[1]
SECONDS, PATIENCE = 40, 120
"""Of faults, and at most of quiet; with the cluster's start and end it takes 60 s on a machine that has nothing else to do."""


@pytest.mark.timeout(500)
def test_whatever_breaks_nothing_is_lost_and_nothing_leaks(request: pytest.FixtureRequest) -> None:
    if request.config.option.kubeconfig:
        pytest.skip("the faults are for a cluster of their own")
    environment = {**clean_environment(), "PYTHONPATH": str(PROJECT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "e2e.chaos", "--seconds", str(SECONDS), "--patience", str(PATIENCE), "--seed", "11"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "writes lost                              0" in done.stdout
    for fault in FAULTS:
        assert re.search(rf"^{re.escape(fault.kind.name)} +[1-9]", done.stdout, re.MULTILINE), f"{fault.kind.name} never struck"

"""Mounts hang again and again: everything is answered, everything ends, and nothing piles up. The long form is
`python -m e2e.chaos.hangs --rounds 1000`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from e2e.cluster.children import clean_environment
from e2e.grounds.revision import PROJECT

ROUNDS = 30


def test_whatever_hangs_calls_are_answered_claims_and_pods_go_and_nothing_piles_up(request: pytest.FixtureRequest) -> None:
    if request.config.option.kubeconfig:
        pytest.skip("it needs no cluster, and is tested where the suite's own is")
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    command = [sys.executable, "-m", "e2e.chaos.hangs", "--rounds", str(ROUNDS)]
    done = subprocess.run(command, cwd=PROJECT, env=clean_environment(), capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ROUNDS} rounds" in done.stdout

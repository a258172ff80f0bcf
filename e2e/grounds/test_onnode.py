"""What the suite does on nodes, tried on this machine's own processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.grounds import onnode

CHILD = "import signal; print(flush=True); signal.pause()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}, *sys.argv[1:]], env={{}})"


@contextmanager
def running(program: str, *arguments: str, pod: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"POD_NAME": pod} if pod else {}) as process:
        try:
            assert process.stdout and process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_a_process_is_killed_by_its_command_line_and_pod() -> None:
    with running(CHILD, "marked one", pod="a") as chosen, running(CHILD, "marked one", pod="b") as spared:
        among = [chosen.pid, spared.pid]
        assert onnode.kill("unmarked", pods=["a"], name="KILL", among=among) == 0
        assert onnode.kill("marked one", pods=["a"], name="KILL", among=among) == 1
        assert chosen.wait() == -signal.SIGKILL
        assert spared.poll() is None


def test_a_child_with_an_empty_environment_belongs_to_its_parents_pod() -> None:
    with running(PARENT, "inherits", pod="a") as parent:
        child = next(pid for pid in onnode.below(parent.pid) if pid != parent.pid)
        assert onnode.kill("inherits", pods=["a"], name="KILL", among=[child]) == 1
        assert parent.wait() == 0


def test_a_process_outside_pods_is_never_killed() -> None:
    with running(CHILD, "nobody's", pod="") as process:
        assert onnode.kill("nobody's", pods=["a", "b"], name="KILL", among=[process.pid]) == 0
        assert process.poll() is None


def test_a_process_that_has_ended_is_none() -> None:
    with running(CHILD, pod="a") as process:
        process.kill()
        process.wait()
        assert onnode.kill("", pods=["a"], name="KILL", among=[process.pid]) == 0


def test_workloads_directories_are_listed_and_nothing_below_them(tmp_path: Path) -> None:
    workload = tmp_path / onnode.STATE_DIR[1:] / "xvols" / "class" / "uuid" / "pod"
    (workload / "data").mkdir(parents=True)
    assert onnode.state_files(str(tmp_path)) == [str(workload.parent), str(workload)]


def test_what_was_found_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    onnode.main("mounts", "/proc")
    assert '"/proc"' in capsys.readouterr().out

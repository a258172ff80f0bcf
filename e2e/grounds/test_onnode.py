"""What the suite does on nodes, tried on this machine's own processes."""

from __future__ import annotations

import os
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


TELL = """
import errno, socket, sys
for address in sys.stdin:
    with socket.socket() as s, open("/proc/sys/net/ipv4/conf/all/rp_filter") as filter:
        print(errno.errorcode[s.connect_ex((address.strip(), 9))], filter.read().strip(), flush=True)
"""
"""Why an address cannot be reached, and whether what comes is looked at."""


def test_a_pod_is_cut_off_from_one_address_and_let_through_again() -> None:
    command = ["unshare", "--net", sys.executable, "-c", TELL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"POD_NAME": "a"}, text=True) as pod:

        def reaching(address: str) -> str:
            assert pod.stdin and pod.stdout
            print(address, file=pod.stdin, flush=True)
            return pod.stdout.readline().strip()

        one, another = "192.0.2.1", "192.0.2.2"
        here = os.stat("/proc/self/ns/net").st_ino
        assert reaching(one) == "ENETUNREACH 0", "this network knows no way to anywhere"
        assert onnode.cut_off(one, pods=["a"], among=[pod.pid]) == 1
        assert (reaching(one), reaching(another)) == ("EHOSTUNREACH 2", "ENETUNREACH 2")
        assert onnode.cut_off(one, pods=["b"], among=[pod.pid]) == 0
        assert onnode.let_through(one, pods=["a"], among=[pod.pid]) == 1
        assert reaching(one) == "ENETUNREACH 2"
        assert os.stat("/proc/self/ns/net").st_ino == here
        assert pod.stdin
        pod.stdin.close()


def test_workloads_directories_are_listed_and_nothing_below_them(tmp_path: Path) -> None:
    workload = tmp_path / onnode.STATE_DIR[1:] / "xvols" / "class" / "uuid" / "pod"
    (workload / "data").mkdir(parents=True)
    assert onnode.state_files(str(tmp_path)) == [str(workload.parent), str(workload)]


def test_what_was_found_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    onnode.main("mounts", "/proc")
    assert '"/proc"' in capsys.readouterr().out


def test_what_is_written_on_a_node_goes_with_its_directory_and_nothing_that_it_links_to(tmp_path: Path) -> None:
    made, other = tmp_path / "volume", tmp_path / "other"
    onnode.write(f"{other}/kept", "kept")
    onnode.write(f"{made}/users/alice", "hello")
    onnode.link(f"{made}/way-out", str(other))
    assert onnode.read(f"{made}/users/alice") == "hello"
    for _ in range(2):
        onnode.erase(str(made))
    assert onnode.read(f"{made}/users/alice") is None
    assert onnode.read(f"{other}/kept") == "kept"

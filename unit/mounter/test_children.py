"""Child processes: clean at the start, heard, reaped, and never alive on their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from dynvol.mounter.process import Child, Children

PATH = {"PATH": os.defpath}


async def test_a_childs_end_and_last_words_are_known() -> None:
    async with Children() as children:
        child = children.start(("sh", "-c", "echo to stdout; echo to stderr >&2; exit 7"), environment=PATH)
        assert await child.exited == 7
        assert child.output == "to stdout\nto stderr\n"
        assert not child.alive


async def test_only_the_end_of_a_long_output_is_kept() -> None:
    async with Children() as children:
        child = children.start(("sh", "-c", "seq 100000; echo the end"), environment=PATH)
        assert await child.exited == 0
        assert child.output.endswith("100000\nthe end\n")
        assert len(child.output) < 10_000


async def test_a_signal_is_a_negative_code_and_reaches_the_whole_group() -> None:
    async with Children() as children:
        child = children.start(("sh", "-c", "sleep 600 & echo $!; wait"), environment=PATH)
        grandchild = int(await said(child))
        child.signal(signal.SIGKILL)
        assert await child.exited == -signal.SIGKILL
        await gone(grandchild)


async def test_nothing_is_inherited_but_what_is_given() -> None:
    async with Children() as children:
        child = children.start(("env",), environment={**PATH, "GIVEN": "1"})
        await child.exited
        found = {line.partition("=")[0] for line in child.output.splitlines()}
        assert found - {"_"} == {"GIVEN", "PATH"}


async def test_a_child_dies_of_lack_of_memory_before_its_parent() -> None:
    async with Children() as children:
        child = children.start(("sleep", "600"), environment=PATH)
        assert _oom_score(child.pid) == min(1000, _oom_score(os.getpid()) + 500)


async def test_none_is_left_at_the_end() -> None:
    async with Children() as children:
        child = children.start(("sh", "-c", "trap '' TERM; sleep 600"), environment=PATH)
    assert not child.alive
    assert _command_line(child.pid) == ""


async def test_a_program_that_is_not_there_ends_with_a_word_about_it() -> None:
    async with Children() as children:
        child = children.start(("no-such-program",), environment=PATH)
        assert await child.exited != 0
        assert "no-such-program" in child.output


async def test_a_killed_parent_takes_its_children_along() -> None:
    program = f"""
        import asyncio
        from dynvol.mounter.process import Children
        async def main():
            async with Children() as children:
                print(children.start(("sleep", "600"), environment={PATH!r}).pid, flush=True)
                await asyncio.sleep(600)
        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    parent = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    await until_it_is(child, "sleep")
    parent.kill()
    await parent.wait()
    await gone(child)


async def test_an_adopting_parent_reaps_orphans_too() -> None:
    """As process 1 does; a subreaper is given orphans like it."""
    program = f"""
        import asyncio, ctypes, os
        from dynvol.mounter.process import Children
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        async def main():
            async with Children(adopting=True) as children:
                child = children.start(("sh", "-c", "sleep 0.1 & exit 3"), environment={PATH!r})
                assert await child.exited == 3
                while os.path.getsize("/proc/self/task") or True:
                    with open(f"/proc/self/task/{{os.getpid()}}/children") as file:
                        if not file.read():
                            break
                    await asyncio.sleep(0.01)
        asyncio.run(asyncio.wait_for(main(), 10))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = await asyncio.create_subprocess_exec(*command)
    assert await done.wait() == 0


async def said(child: Child) -> str:
    async with asyncio.timeout(10):
        while not child.output.endswith("\n"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return child.output


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while _command_line(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_it_is(pid: int, program: str) -> None:
    async with asyncio.timeout(10):
        while not _command_line(pid).startswith(program):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def _command_line(pid: int) -> str:
    """Empty for a process that is gone, and for a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""

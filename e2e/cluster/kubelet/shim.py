"""Stands between the kubelet and one container, so that a kubelet may die and its containers live on.

A program by itself (`python -I -S shim.py DIRECTORY ID RUNC_ROOT OOM_FILE LOG_FILE`), with nothing but the standard
library, since one runs for each container. It starts the container with runc, writes what it prints in the CRI log
format, waits for it, and leaves the outcome in DIRECTORY/exit.json. It decides nothing: no restarts, no clean-up.

1. Fork: the parent waits until the child has started the container, or failed to, and ends.
2. The child becomes a sub-reaper: the container's first process, orphaned by `runc create`, becomes its child. By
   DIRECTORY/shim.json a later kubelet knows whom to wait for, from here on.
3. `runc create`, then `runc start`. If that fails, this is how the container ended: exit.json says so, with runc's words.
4. Copy output until the container has ended and its pipes are drained.
5. Write exit.json under another name, then rename: it is there in full or not at all.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
START_ERROR = 128  # the exit code that containerd gives a container that could not start
LINE_LIMIT = 16 * 1024  # as containerd: a longer line is written in parts, tagged P


def stamp() -> str:
    seconds, nanos = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanos:09d}Z"


def write_json(path: str, value: object) -> None:
    with open(path + ".new", "w") as file:
        json.dump(value, file)
    os.rename(path + ".new", path)


class Lines:
    """One stream of the container, cut into lines for the log."""

    def __init__(self, name: str, log: int) -> None:
        self.name = name
        self.log = log
        self.rest = b""

    def feed(self, data: bytes) -> None:
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            self.write(line, "F")
        while len(self.rest) >= LINE_LIMIT:
            part, self.rest = self.rest[:LINE_LIMIT], self.rest[LINE_LIMIT:]
            self.write(part, "P")

    def end(self) -> None:
        if self.rest:
            self.write(self.rest, "P")

    def write(self, line: bytes, tag: str) -> None:
        os.write(self.log, f"{stamp()} {self.name} {tag} ".encode() + line + b"\n")


def start_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])


def runc(root: str, *arguments: str, stdout: int | None = None, stderr: int | None = None) -> int:
    command = ["runc", "--root", root, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, check=False).returncode


def launch(directory: str, name: str, root: str) -> tuple[int, int, int]:
    """Step 3. Returns the container's first process and the read ends of its two pipes; raises what runc said."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    pid_file = os.path.join(directory, "pid")
    errors = os.path.join(directory, "runc.log")
    options = ["--log", errors, "--log-format", "json"]
    extra = ["--rootless=true"] if os.path.exists(os.path.join(directory, "no-cgroups")) else []
    command = [*extra, *options, "create", "--bundle", directory, "--pid-file", pid_file, name]
    created = runc(root, *command, stdout=out_write, stderr=err_write)
    os.close(out_write)
    os.close(err_write)
    if created == 0:
        with open(pid_file) as file:
            pid = int(file.read())
        started = runc(root, *options, "start", name)
        if started == 0:
            return pid, out_read, err_read
        runc(root, "delete", "--force", name)
    raise RuntimeError(last_error(errors))


def last_error(errors: str) -> str:
    try:
        with open(errors) as lines:
            said = [json.loads(line) for line in lines]
        return next(str(entry["msg"]) for entry in reversed(said) if entry["level"] in ("error", "fatal"))
    except (OSError, ValueError, KeyError, StopIteration):
        return "runc failed and said nothing"


def copy_until_end(pid: int, streams: dict[int, Lines], woken: int) -> int:
    """Step 4. After the first process has ended, what is still in the pipes is read, but nobody is waited for."""
    poll = select.poll()
    for fd in (*streams, woken):
        poll.register(fd, select.POLLIN)
    status: int | None = None
    while streams or status is None:
        ready = poll.poll(None if status is None else 200)
        if status is not None and not ready:
            break
        for fd, _ in ready:
            if fd == woken:
                os.read(woken, 64)
            elif data := os.read(fd, 65536):
                streams[fd].feed(data)
            else:
                poll.unregister(fd)
                streams.pop(fd).end()
        status = reap(pid, status)
    for lines in streams.values():
        lines.end()
    return status or 0


def reap(pid: int, status: int | None) -> int | None:
    """Collect every child that has ended: a sub-reaper also inherits what `runc exec` left behind."""
    while True:
        try:
            ended, outcome = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status if status is not None else 0
        if ended == 0:
            return status
        if ended == pid:
            status = outcome


def out_of_memory(oom_file: str) -> bool:
    """Whether the kernel killed for memory in this cgroup: memory.events (v2) and memory.oom_control (v1) agree."""
    try:
        with open(oom_file) as lines:
            return any(line.split()[0] == "oom_kill" and int(line.split()[1]) > 0 for line in lines)
    except (OSError, IndexError, ValueError):
        return False


def supervise(report: int, directory: str, name: str, root: str, oom_file: str, log_file: str) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    me = os.getpid()
    record = {"pid": me, "start": start_time(me), "container": 0, "startedAt": stamp()}
    write_json(os.path.join(directory, "shim.json"), record)
    begun = stamp()
    try:
        pid, out, err = launch(directory, name, root)
    except (RuntimeError, OSError) as error:
        failure = {"code": START_ERROR, "reason": "StartError", "message": str(error)}
        write_json(os.path.join(directory, "exit.json"), failure | {"startedAt": begun, "finishedAt": stamp()})
        return
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.write(wake, b"\0")
    begun = stamp()
    write_json(os.path.join(directory, "shim.json"), record | {"container": pid, "startedAt": begun})
    os.write(report, b"started")
    os.close(report)
    detach_output()
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    status = copy_until_end(pid, {out: Lines("stdout", log), err: Lines("stderr", log)}, woken)
    code = os.waitstatus_to_exitcode(status)
    outcome = {
        "code": code if code >= 0 else 128 - code,
        "signal": max(0, -code),
        "oom": out_of_memory(oom_file),
        "startedAt": begun,
        "finishedAt": stamp(),
    }
    write_json(os.path.join(directory, "exit.json"), outcome)


def detach_output() -> None:
    """Let go of the kubelet's pipes, or its `communicate` would wait for as long as the container lives."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def main(arguments: list[str]) -> int:
    receive, report = os.pipe()
    if os.fork() == 0:
        os.close(receive)
        supervise(report, *arguments)
        os._exit(0)
    os.close(report)
    os.read(receive, 16)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A second implementation of the client: grpcio (gRPC's C core) with stubs that its own protoc makes of protos/.

It runs in a process of its own (`python independent.py <stubs> <socket>`), because C core's threads do not survive the forks of
other tests. One JSON line in is one call, one JSON line out its outcome, in whatever order they end.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROTOS = Path(__file__).resolve().parents[2] / "protos"
_MODULES = {"csi.v1": "csi", "dynvol.mounter.v1": "mounter", "pluginregistration": "pluginregistration"}


def make_stubs(directory: Path) -> Path:
    """What grpcio's users have: *_pb2.py and *_pb2_grpc.py."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"]
    command += [f"--python_out={directory}", f"--grpc_python_out={directory}", *(p.name for p in sorted(PROTOS.glob("*.proto")))]
    subprocess.run(command, check=True, env={}, cwd=directory)
    return directory


@dataclass(frozen=True)
class Outcome:
    code: str
    details: str = ""
    response: Mapping[str, Any] = field(default_factory=dict)


class IndependentClient:
    """One connection to a socket, made with the first call and made again when it is lost, as grpcio does it."""

    def __init__(self, socket: Path, *, stubs: Path) -> None:
        self._command = [sys.executable, __file__, str(stubs), str(socket)]
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, env={"GRPC_VERBOSITY": "ERROR"}
        )
        self._reader = asyncio.create_task(self._read(), name="answers of grpcio")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader

    async def call(self, method: str, request: Mapping[str, Any] | None = None, *, seconds: float = 10.0) -> Outcome:
        """`method` as in `csi.v1.Node/NodeGetInfo`, `request` in protobuf's JSON. Gives up after so many seconds."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        line = {"number": number, "method": method, "request": request or {}, "seconds": seconds}
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        return await answer

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            self._waiting.pop(answer["number"]).set_result(Outcome(answer["code"], answer["details"], answer["response"]))


def main(stubs: str, socket: str) -> None:
    """In the process."""
    import grpc  # noqa: PLC0415
    from google.protobuf import json_format  # noqa: PLC0415

    sys.path.insert(0, stubs)
    writing = threading.Lock()

    def perform(channel: Any, number: int, method: str, request: dict[str, Any], seconds: float) -> None:
        service, _, name = method.partition("/")
        package, _, kind = service.rpartition(".")
        messages, stub = (importlib.import_module(_MODULES[package] + suffix) for suffix in ("_pb2", "_pb2_grpc"))
        described = messages.DESCRIPTOR.services_by_name[kind].methods_by_name[name]
        message = json_format.ParseDict(request, getattr(messages, described.input_type.name)())
        answer = {"number": number, "code": "OK", "details": "", "response": {}}
        try:
            result = getattr(getattr(stub, f"{kind}Stub")(channel), name)(message, timeout=seconds)
            last = list(result)[-1:] if described.server_streaming else [result]
            answer["response"] = json_format.MessageToDict(last[0]) if last else {}
        except grpc.RpcError as error:
            answer |= {"code": error.code().name, "details": error.details() or ""}
        with writing:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    calls: list[threading.Thread] = []
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        for line in sys.stdin:
            calls.append(threading.Thread(target=perform, args=(channel,), kwargs=json.loads(line)))
            calls[-1].start()
        for call in calls:
            call.join()


if __name__ == "__main__":
    main(*sys.argv[1:])

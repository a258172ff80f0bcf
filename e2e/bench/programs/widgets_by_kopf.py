"""kopf answers each object by a status patch, in the leanest way it has: `… widgets_by_kopf KUBECONFIG NAMESPACE`.

What it keeps of an object is kept in the status, so that it is written by the same patch; no events, no peering, no scanning.
It has as many workers as it likes: a limit would count those that only linger.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import kopf

from e2e.bench.programs import READY, cpu_seconds, lines, say, tell
from e2e.bench.programs.raw import GROUP, PLURAL, VERSION

handled: dict[str, float] = {}


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = kopf.StatusDiffBaseStorage(field="status.kopf")
    settings.persistence.progress_storage = kopf.StatusProgressStorage(field="status.kopfProgress")


@kopf.on.login()
def login(**given: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_kubeconfig(**given)


@kopf.on.create(GROUP, VERSION, PLURAL)
async def created(name: str, patch: kopf.Patch, **_: Any) -> None:
    handled[name] = time.monotonic()
    patch.status["seen"] = True


async def main(kubeconfig: Path, namespace: str) -> None:
    os.environ["KUBECONFIG"] = str(kubeconfig)
    logging.getLogger().setLevel(logging.ERROR)
    ready, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kopf.operator(namespaces=[namespace], standalone=True, ready_flag=ready, stop_flag=stop), name="kopf")
        await ready.wait()
        say(READY)
        used = cpu_seconds()
        async for _ in lines():
            pass
        tell(cpu=cpu_seconds() - used, handled=handled)
        stop.set()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

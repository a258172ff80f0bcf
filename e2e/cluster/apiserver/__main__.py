"""`python -m e2e.cluster.apiserver --state DIR --listen 127.0.0.1:6443`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.apiserver import pki
from e2e.cluster.apiserver.server import Settings, running


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="e2e.cluster.apiserver", description="A small Kubernetes API server.")
    parser.add_argument("--state", type=Path, required=True, help="folder of keys, certificates and the database")
    parser.add_argument("--listen", default="127.0.0.1:6443", metavar="HOST:PORT")
    parser.add_argument("--event-ttl", type=float, default=3600.0, metavar="SECONDS")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    host, _, port = options.listen.rpartition(":")
    files = pki.ensure(options.state, server=f"https://{options.listen}")
    settings = Settings(files=files, host=host, port=int(port), event_lifetime=options.event_ttl)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings):
        print(f"serving on https://{settings.host}:{settings.port}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()

"""Ask the storage: send a provider's request, and say what came back or why nothing did."""

from __future__ import annotations

import asyncio

from dynvol.mount.providers.contract import Answer, Request, Silence

from . import http

_DEADLINE = 10.0
"""Seconds for all of it. Under a small class the handshake alone may take one."""


async def ask(request: Request) -> Answer | Silence:
    """Never raises, and never takes longer than ten seconds."""
    try:
        async with asyncio.timeout(_DEADLINE):
            return await _send(request)
    except TimeoutError:
        return Silence.TIMED_OUT
    except http.Unresolved:
        return Silence.UNRESOLVED
    except http.Refused:
        return Silence.REFUSED
    except http.Untrusted:
        return Silence.UNTRUSTED
    except http.NotTls:
        return Silence.NOT_TLS
    except http.Garbled:
        return Silence.GARBLED
    except (http.HttpProblem, OSError):
        return Silence.UNREACHABLE


async def _send(request: Request) -> Answer:
    tls = http.trust(request.ca_file) if request.tls else None
    connection = http.exchange("GET", host=request.host, port=request.port, target=request.target, headers=request.headers, tls=tls)
    async with connection as exchange:
        return Answer(exchange.head.status, await exchange.read())

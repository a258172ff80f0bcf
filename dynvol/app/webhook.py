"""The webhook process: admission for the API server, wired together.

Started in this order, and stopped in the opposite one: the port for probes and metrics; the caches; the certificate, made or read;
the HTTPS port. Asked to leave, it first says that it is not ready and goes on answering until the API server has heard of it: a
rollout of the webhook must not cost a single pod its creation.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dynvol.api.resources import CLAIMS, CLASSES, NAMESPACES
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import KubeError
from dynvol.observe import logs
from dynvol.observe.health import Health, holds
from dynvol.observe.metrics import Metrics
from dynvol.observe.server import serve
from dynvol.runtime.informer import Informer
from dynvol.webhook.cluster import BY_NAMESPACE, InformedView, SharedSecret, TrustingConfigurations
from dynvol.webhook.renewal import CertificateKeeper
from dynvol.webhook.reviewers import Reviewers
from dynvol.webhook.server import application, serving

log = logs.get(__name__)

LAME_DUCK: Final = 5.0
"""Seconds: a readiness probe's period, and the way to every API server's endpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Addresses are host and port.

    `host_names` are those by which API servers call: the certificate is made out to them. `configurations` is the name of both
    webhook configurations, whose caBundle is kept. `lame_duck` is for how many seconds it serves on after saying that it ends.
    """

    listen: tuple[str, int]
    metrics_listen: tuple[str, int]
    namespace: str
    host_names: tuple[str, ...]
    configurations: str
    secret: str
    kubeconfig: Path | None = None
    lame_duck: float = LAME_DUCK


def main(*, listen: str, metrics_listen: str, namespace: str, service: str, secret: str, kubeconfig: str) -> int:
    """The command line's `dynvol webhook`; returns the exit status."""
    settings = WebhookSettings(
        listen=_address(listen),
        metrics_listen=_address(metrics_listen),
        namespace=namespace,
        # As the API server's dialer puts it: without the cluster's domain.
        host_names=(f"{service}.{namespace}.svc",),
        configurations=service,
        secret=secret,
        kubeconfig=Path(kubeconfig) if kubeconfig else None,
    )
    asyncio.run(run(settings))
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def run(settings: WebhookSettings) -> None:
    """Until SIGTERM or SIGINT. Raises what ends the process: a task that failed, a port that is taken."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await _WebhookProcess(settings).run(stopping)


class _WebhookProcess:
    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._metrics = Metrics(process="webhook")
        self._health = Health()
        self._listening = False

    async def run(self, stopping: asyncio.Event) -> None:
        """The order is the module's."""
        settings, metrics = self._settings, self._metrics
        async with (
            serve(*settings.metrics_listen, health=self._health, metrics=metrics),
            KubeClient.connect(settings.kubeconfig, metrics=metrics.requests) as client,
            asyncio.TaskGroup() as tasks,
        ):
            view, keeper = self._view(client), self._keeper(client)
            self._check(view, keeper)
            metrics.certificate(lambda: keeper.served.ends.timestamp() if keeper.served else 0.0)
            background = [
                tasks.create_task(metrics.watch_loop(), name="event-loop-lag"),
                tasks.create_task(view.class_informer.run(), name="informer-classes"),
                tasks.create_task(view.claim_informer.run(), name="informer-claims"),
                tasks.create_task(view.namespace_informer.run(), name="informer-namespaces"),
            ]
            asked = tasks.create_task(stopping.wait(), name="stop")
            prepared = tasks.create_task(_prepare(view, keeper), name="prepare")
            await asyncio.wait((asked, prepared), return_when=asyncio.FIRST_COMPLETED)
            if not stopping.is_set():
                background.append(tasks.create_task(keeper.run(), name="certificate"))
                await self._serve(view, keeper, asked)
            for task in (*background, prepared):
                task.cancel()

    async def _serve(self, view: InformedView, keeper: CertificateKeeper, asked: asyncio.Task[Any]) -> None:
        """Until `asked`, and a little longer."""
        reviewers = Reviewers(view)
        routes = {
            "/mutate-pods": reviewers.pod,
            "/mutate-claims": reviewers.new_claim,
            "/validate-claims": reviewers.claim,
            "/validate-classes": reviewers.provider_class,
        }
        app = application(routes, metrics=self._metrics.admission)
        host, port = self._settings.listen
        async with serving(app, host=host, port=port, context=keeper.context):
            log.info("serving", host=host, port=port)
            self._listening = True
            await asked
            self._health.drain()
            log.info("asked to leave", serving_on_for_seconds=self._settings.lame_duck)
            await asyncio.sleep(self._settings.lame_duck)

    def _view(self, client: KubeClient) -> InformedView:
        metrics = self._metrics.informers
        return InformedView(
            client,
            class_informer=Informer(client.source(CLASSES), name="classes", metrics=metrics),
            claim_informer=Informer(
                client.source(CLAIMS), name="claims", indexers={BY_NAMESPACE: lambda c: [c.metadata.namespace]}, metrics=metrics
            ),
            namespace_informer=Informer(client.source(NAMESPACES, metadata_only=True), name="namespaces", metrics=metrics),
        )

    def _keeper(self, client: KubeClient) -> CertificateKeeper:
        settings = self._settings
        return CertificateKeeper(
            SharedSecret(client, settings.namespace, settings.secret),
            TrustingConfigurations(client, settings.configurations),
            hosts=settings.host_names,
            unavailable=(KubeError,),
        )

    def _check(self, view: InformedView, keeper: CertificateKeeper) -> None:
        """Not whether the API server is there: when it is not it asks nothing, and when it is back it must find us ready."""
        ready = self._health.ready
        ready.add("https", holds(lambda: self._listening, "the port is not open yet"))
        ready.add("certificate", holds(lambda: keeper.served is not None, "there is none yet"))
        for informer in (view.class_informer, view.claim_informer, view.namespace_informer):
            ready.add(f"cache-{informer.name}", holds(lambda i=informer: i.has_synced, "has not synced yet"))  # type: ignore[misc]


async def _prepare(view: InformedView, keeper: CertificateKeeper) -> None:
    await keeper.prepare()
    for informer in (view.class_informer, view.claim_informer, view.namespace_informer):
        await informer.synced()

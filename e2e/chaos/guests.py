"""Claims and pods that come, change and go while faults strike, and a label that a steady pod gains and loses.

Who is there is remembered here and not asked of the API server, which may be ill: so what is done follows from the schedule alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from e2e.chaos import objects
from e2e.chaos.objects import GUEST_CLAIMS
from e2e.chaos.schedule import Kind, Stroke
from e2e.chaos.world import STEADY_PODS, World
from e2e.manifests import Manifest

PODS = 2
"""How many there can be at once, beside the steady ones."""


class Guests:
    def __init__(self, world: World) -> None:
        self._world = world
        self._claims: dict[int, int] = {}
        """Slot → how often that claim was changed."""
        self._pods: dict[int, str] = {}
        self._made = 0
        self._welcome = True
        self.acts: Mapping[str, Callable[[Stroke], Awaitable[None]]] = {
            "claim": self._claim,
            "pod": self._pod,
            "label": self._label,
        }

    async def act(self, stroke: Stroke) -> None:
        await self.acts[stroke.kind](stroke)

    async def leave(self) -> None:
        """All that there are: the API server may have forgotten that some left."""
        world = self._world
        for kind in ("DynamicVolumeClaim", "Pod"):
            names = [each["metadata"]["name"] for each in await world.all_of(kind)]
            for name in names:
                if name.startswith("guest-"):
                    await world.delete(kind, name)
        self._claims.clear()
        self._pods.clear()

    async def _claim(self, stroke: Stroke) -> None:
        """A claim that is not there comes; one that is changes, or goes."""
        slot = stroke.choose(len(GUEST_CLAIMS))
        if slot not in self._claims:
            self._claims[slot] = 0
        elif stroke.pick * len(GUEST_CLAIMS) % 1 < 0.5:
            self._claims[slot] += 1
        else:
            del self._claims[slot]
            await self._world.delete("DynamicVolumeClaim", GUEST_CLAIMS[slot])
            return
        await self._world.apply(self._claim_manifest(slot))

    def _claim_manifest(self, slot: int) -> Manifest:
        """Changes alternate between owner's rights and place."""
        name, changes = GUEST_CLAIMS[slot], self._claims[slot]
        return objects.claim(
            name,
            client=objects.CLIENTS[slot % len(objects.CLIENTS)],
            endpoint=self._world.proxy.endpoint,
            mountpoint=f"/{name}" if changes // 2 % 2 == 0 else f"/{name}-moved",
            umask=objects.UMASKS[(changes + 1) // 2 % 2],
            guests=True,
        )

    async def _pod(self, stroke: Stroke) -> None:
        slot = stroke.choose(PODS)
        if slot in self._pods:
            await self._world.delete("Pod", self._pods.pop(slot))
            return
        self._made += 1
        name = self._pods[slot] = f"guest-{self._made}"
        nodes = sorted(STEADY_PODS.values())
        await self._world.apply(self._world.pod(name, node=nodes[slot % len(nodes)], shared=slot == 1, labels=objects.WELCOME))

    async def _label(self, stroke: Stroke) -> None:
        self._welcome = not self._welcome
        labels = {key: value if self._welcome else None for key, value in objects.WELCOME.items()}
        await self._world.patch("Pod", "steady-1", {"metadata": {"labels": labels}})


KINDS = tuple(Kind(name, lane="guests") for name in ("claim", "claim", "pod", "label"))

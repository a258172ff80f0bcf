"""The CSI Identity service: who the plugin is, and whether it is ready."""

from __future__ import annotations

from collections.abc import Callable

from dynvol.api import names

from .proto.csi import v1 as csi


class IdentityService(csi.IdentityBase):
    """`ready` is asked at every probe, on the event loop, and must answer at once."""

    def __init__(self, *, version: str, ready: Callable[[], bool]) -> None:
        self._version = version
        self._ready = ready

    async def get_plugin_info(self, message: csi.GetPluginInfoRequest) -> csi.GetPluginInfoResponse:
        return csi.GetPluginInfoResponse(name=names.DRIVER, vendor_version=self._version)

    async def get_plugin_capabilities(self, message: csi.GetPluginCapabilitiesRequest) -> csi.GetPluginCapabilitiesResponse:
        """None: there is no controller service, and no topology."""
        return csi.GetPluginCapabilitiesResponse()

    async def probe(self, message: csi.ProbeRequest) -> csi.ProbeResponse:
        return csi.ProbeResponse(ready=self._ready())

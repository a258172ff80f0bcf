"""Kubelet's plugin registration: the service that tells kubelet, when it finds the socket, where the CSI services are.

Kubelet looks for sockets when it starts and whenever one appears, asks GetInfo, calls NodeGetInfo at the endpoint that it is told,
and says here how that went. After a failure it tries again by itself; all that is left to do is to tell people.
"""

from __future__ import annotations

import logging
from typing import Final

from dynvol.api import names

from .proto import pluginregistration as kubelet

_log: Final = logging.getLogger(__name__)

_PLUGIN_TYPE: Final = "CSIPlugin"
_VERSIONS: Final = ("1.0.0",)
"""Of CSI, as kubelet parses it: any 1.x will do (pkg/volume/csi/csi_plugin.go, validateVersions)."""


class RegistrationService(kubelet.RegistrationBase):
    """Remembers kubelet's last word. It is worth nothing after a restart: kubelet speaks again then."""

    def __init__(self, *, endpoint: str) -> None:
        self._endpoint = endpoint
        self.problem = "kubelet has not registered the CSI driver yet"
        """Empty once kubelet has. Else a sentence for whoever wonders why the node is not ready."""

    async def get_info(self, message: kubelet.InfoRequest) -> kubelet.PluginInfo:
        return kubelet.PluginInfo(type=_PLUGIN_TYPE, name=names.DRIVER, endpoint=self._endpoint, supported_versions=list(_VERSIONS))

    async def notify_registration_status(self, message: kubelet.RegistrationStatus) -> kubelet.RegistrationStatusResponse:
        if message.plugin_registered:
            self.problem = ""
            _log.info("kubelet has registered the CSI driver", extra={"endpoint": self._endpoint})
        else:
            self.problem = f"kubelet refused to register the CSI driver: {message.error or 'no reason given'}"
            _log.error("kubelet refused to register the CSI driver", extra={"reason": message.error})
        return kubelet.RegistrationStatusResponse()

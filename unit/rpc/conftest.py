"""Every test here serves on a socket, with an event loop that no one may block."""

from __future__ import annotations

from unit.sockets import an_event_loop_that_is_not_blocked, folder

__all__ = ["an_event_loop_that_is_not_blocked", "folder"]

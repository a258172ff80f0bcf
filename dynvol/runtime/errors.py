"""What can go wrong in the runtime, and what the runtime does about it.

    SourceError                    a list or a watch failed: logged, backed off, tried again, for ever
    ├── Expired                    the version or the continue token is too old: list again
    ├── TooLargeVersion            the server has not come as far as the version yet: list again, from whatever it has
    ├── Throttled                  the server asks for patience: the same request again, not before `retry_after`
    ├── Unavailable                no answer, or none of any use (refused, reset, timed out, 5xx): the same request again
    └── StreamingListUnsupported   the server cannot stream a list: list in pages instead, from now on
    Contended                      raised by a reconcile: somebody else wrote at the same moment; it is made again soon
    TerminalError                  raised by a reconcile: no retry will help; wait for the object to change
    SyncTimeout                    a cache was not filled in time: fatal
    LeadershipLost                 somebody else may be leading: fatal
    QueueShutDown                  a queue has nothing left to give: its workers end

A source may raise `SourceError` itself for what fits nowhere (forbidden, for example). It is not fatal either, since rights
and servers get repaired; it makes the watcher list again.
"""

from __future__ import annotations


class SourceError(Exception):
    """A list or a watch failed. Its text is logged as it is: it must hold no body and no secret."""


class Expired(SourceError):
    """410, as a status or as an ERROR event of a watch: the version or the continue token is no longer known."""


class TooLargeVersion(SourceError):
    """The server does not know the version yet (a replica that lags, a data store that was restored)."""


class Throttled(SourceError):
    """429. Also honoured by `Controller` when a reconcile lets it through."""

    def __init__(self, message: str = "", *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds, as the server asked for; 0 where it did not say."""


class Unavailable(SourceError):
    """The server did not answer, or answered that it cannot."""


class StreamingListUnsupported(SourceError):
    """The server refuses, or its data store cannot serve, a watch that begins with the initial events."""


class Contended(Exception):
    """Somebody else wrote at the same moment, or what was to be written to has gone: the caches will tell. No failure."""


class TerminalError(Exception):
    """A reconcile's way to say that it failed and that trying again is of no use before something changes."""


class SyncTimeout(Exception):
    """An informer had not seen its first list when its users' patience ended."""


class LeadershipLost(Exception):
    """The lease could not be renewed in time, or is somebody else's. The process should end."""


class QueueShutDown(Exception):
    """The queue was shut down and is drained."""

"""Bounds open connections without ever turning a probe away.

uvicorn's own `limit_concurrency` answers everything with 503 as soon as enough connections are open, also idle ones: a
healthy server would fail its liveness probe. Here a new connection takes the place of the one that has been idle
longest. Where none is idle it is served all the same, but only with what costs little: `Admission` refuses `/predict`.
"""

from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from depth_server.admission import Admission

LINGER_SECONDS: Final = 60.0
"""How long a connection that is being closed may take to accept the rest of its answer."""


class BoundedProtocol(H11Protocol):
    """One connection, which makes room for others when it is idle."""

    max_connections: int
    admission: Admission
    idle_since = 0.0
    """Time of the event loop."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered; one whose head is not complete does not count."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # None until a request

    def connection_made(self, transport: object) -> None:
        """Take a connection; beyond the limit the one that has been idle longest is closed."""
        super().connection_made(transport)  # type: ignore[arg-type]  # asyncio's base class names a wider type
        self.idle_since = self.loop.time()
        if len(self.connections) > self.max_connections:
            idle = [other for other in self._open() if other is not self and other.is_idle]
            if self._is_over_limit() and idle:
                min(idle, key=lambda other: other.idle_since).make_room()
            self.admission.has_free_connection = not self._is_over_limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        self.admission.has_free_connection = not self._is_over_limit()

    def on_response_complete(self) -> None:
        """Keep the connection for its next request if there is room for it."""
        super().on_response_complete()
        self.idle_since = self.loop.time()
        if self.transport.is_closing() or (self.is_idle and self._is_over_limit()):
            self.make_room()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for too long."""
        self.make_room()

    def make_room(self) -> None:
        """Close, and let go of a client that does not take what is still to be sent."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        self.admission.has_free_connection = not self._is_over_limit()

    def _open(self) -> list["BoundedProtocol"]:
        return [
            other
            for other in self.connections
            if isinstance(other, BoundedProtocol) and not other.transport.is_closing()
        ]

    def _is_over_limit(self) -> bool:
        return len(self.connections) > self.max_connections and len(self._open()) > self.max_connections


def bounded_protocol(limit: int, gate: Admission) -> type[BoundedProtocol]:
    """Make the class of a server's connections; uvicorn makes one instance for each.

    Args:
        limit: Connections that are open at once, but for those that come while none is idle.
        gate: Told whether there is room, so that it refuses what costs something.
    """

    class ServerConnection(BoundedProtocol):
        max_connections = limit
        admission = gate

    return ServerConnection

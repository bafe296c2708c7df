"""The HTTP server of the admin API, with its connections to the services."""

import socket

from gateway.admin.app import create_admin_app
from gateway.admin.clients import AdminClients
from gateway.server import Drain, HttpServer
from gateway.settings import Settings

# Operators and their programs; further connections wait in the kernel.
MAX_CONNECTIONS = 64


class AdminServer:
    """Serves the admin API on `listener`, beside the public API and drained like it.

    Create it inside the event loop; `close()` it at the end.
    """

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._clients = AdminClients(settings)
        drain = Drain()
        app = create_admin_app(settings, self._clients, drain)
        self.server = HttpServer(app, listener, drain, MAX_CONNECTIONS, settings)

    async def close(self) -> None:
        """Closes the connections to the services."""
        await self._clients.close()

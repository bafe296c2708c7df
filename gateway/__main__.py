"""Starts the gateway: settings → clients → app → HTTP server.

Run as `python -m gateway`. With GATEWAY_WORKERS above 1, that many processes share the socket.
"""

import os
import socket
import sys
import tempfile

import uvicorn
import uvloop

from gateway.protocol import BoundedHttpProtocol
from gateway.settings import GatewaySettings
from gateway.workers import run_workers
from servicekit import logs
from servicekit.settings import load, split_address

# Connections that the kernel keeps for us until we accept them; a crowd arrives at once.
BACKLOG = 4_096


def serve(sockets: list[socket.socket] | None = None) -> None:
    """One process of the gateway, until SIGTERM; `sockets` if several share them."""
    uvloop.run(_serve(sockets))


async def _serve(sockets: list[socket.socket] | None) -> None:
    # Imported here, since the metrics library looks at its environment when it is imported.
    from gateway.app import create_app
    from gateway.clients import Clients
    from gateway.drain import Drain, DrainingServer
    from servicekit.server import tune_garbage_collector

    settings = load(GatewaySettings)
    logs.configure(settings.log_level)
    clients = Clients(settings)
    drain = Drain()
    app = create_app(settings, clients, drain)
    tune_garbage_collector()
    server = DrainingServer(server_config(settings, app), drain, settings.drain_announce_seconds)
    if sockets is None:
        _serve_metrics(settings)
    try:
        await server.serve(sockets)
    finally:
        await clients.close()


def server_config(settings: GatewaySettings, app: object) -> uvicorn.Config:
    """How `app` is served over HTTP."""
    host, port = split_address(settings.listen)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=65,  # above the 60 s of the usual load balancer, so that it closes first
        timeout_graceful_shutdown=settings.drain_seconds,
    )


def _serve_metrics(settings: GatewaySettings) -> None:
    from prometheus_client import CollectorRegistry, multiprocess, start_http_server

    host, port = split_address(settings.metrics_listen)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        start_http_server(port, host, registry)
    else:
        start_http_server(port, host)


def main() -> None:
    """Serves with one process, or with several that share the socket."""
    settings = load(GatewaySettings)
    if settings.workers == 1:
        serve()
        return
    logs.configure(settings.log_level)
    with tempfile.TemporaryDirectory(prefix="frontrow-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        _serve_metrics(settings)
        sys.exit(run_workers(settings.workers, split_address(settings.listen), BACKLOG))


if __name__ == "__main__":
    main()

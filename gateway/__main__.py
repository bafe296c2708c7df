"""The wiring of the gateway: `python -m gateway`.

With GATEWAY_WORKERS above 1, that many processes share the socket, and the first of them also
serves the admin API.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile

import uvloop
from prometheus_client import CollectorRegistry, multiprocess, start_http_server

from gateway.admin.server import AdminServer
from gateway.app import create_app
from gateway.clients import Clients
from gateway.open_files import set_limit
from gateway.server import Drain, HttpServer, listen, listen_for_operators
from gateway.settings import Settings
from gateway.workers import run_workers
from servicekit import logs
from servicekit.server import tune_garbage_collector
from servicekit.settings import load, split_address, warn_of_unknown


def main() -> None:
    """Serves until SIGTERM."""
    settings = load(Settings)
    logs.configure(settings.log_level)
    warn_of_unknown(settings)
    metrics_host, metrics_port = split_address(settings.metrics_listen)
    if settings.workers == 1:
        start_http_server(metrics_port, metrics_host)
        uvloop.run(serve(settings, listen(settings), listen_for_operators(settings)))
        return
    with tempfile.TemporaryDirectory(prefix="frontrow-metrics-") as folder:
        # The workers write their metrics into this folder; this process serves their sums.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        start_http_server(metrics_port, metrics_host, registry)
        listeners = listen(settings), listen_for_operators(settings)
        sys.exit(run_workers(settings.workers, *listeners))


async def serve(
    settings: Settings, listener: socket.socket, admin_listener: socket.socket | None
) -> None:
    """Runs one gateway process; with `admin_listener`, it serves the admin API too."""
    open_files = set_limit(settings.open_files)
    clients = Clients(settings)
    drain = Drain()
    app = create_app(settings, clients, drain, open_files)
    servers = [HttpServer(app, listener, drain, open_files.connections, settings)]
    admin = None if admin_listener is None else AdminServer(settings, admin_listener)
    if admin is not None:
        servers.append(admin.server)

    def handle_signal(number: int) -> None:
        for server in servers:
            server.handle_signal(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle_signal, number)
    tune_garbage_collector()
    watch = asyncio.create_task(open_files.watch())
    try:
        await asyncio.gather(*(server.serve() for server in servers))
    finally:
        watch.cancel()
        await clients.close()
        if admin is not None:
            await admin.close()


def serve_worker(listener: socket.socket, admin_listener: socket.socket | None) -> None:
    """Runs one of several gateway processes."""
    settings = load(Settings)
    logs.configure(settings.log_level)
    uvloop.run(serve(settings, listener, admin_listener))


if __name__ == "__main__":
    main()

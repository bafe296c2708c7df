"""The gRPC server of a service: health, reflection, metrics, deadlines, errors, and its drain."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

import grpc
import uvloop
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from servicekit import logs
from servicekit.background import keep_running
from servicekit.call_interceptor import CallInterceptor
from servicekit.monitoring import MonitoringServer
from servicekit.settings import ServiceSettings

log = logs.get(__name__)

Servicer = TypeVar("Servicer")
# Longer than background work takes to clean up (a Kafka consumer leaves its group in 2 s).
_CANCEL_AGAIN_SECONDS = 4.0
_CANCEL_TIMES = 3
DEFAULT_MAX_REQUEST_BYTES = 4 * 1024 * 1024


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs the main coroutine of a program on uvloop (grpc.aio is a third slower on asyncio's)."""
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())


def tune_garbage_collector() -> None:
    """Makes full collections rare: they found nothing and each paused for 35-49 ms. Call once
    everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


class Server:
    """Serves until SIGTERM or SIGINT, then drains.

    A request has at most `max_request_bytes`.

    Use as an async context manager inside the pools it needs, so that they outlive the drain:

        async with Server(settings, "queue_service") as server:
            server.add(
                queue_pb2_grpc.add_QueueServiceServicer_to_server,
                QueueServicer(service),
                queue_pb2.DESCRIPTOR,
            )
            server.add_background("tick", tick)
            await server.serve()
    """

    def __init__(
        self,
        settings: ServiceSettings,
        name: str,
        *,
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
    ) -> None:
        self._settings = settings
        self._name = name
        self._health = health.aio.HealthServicer()
        self._service_names: set[str] = set()
        self._serving = False
        self._background: dict[str, Callable[[], Awaitable[None]]] = {}
        self._streams: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.grpc = grpc.aio.server(
            interceptors=[CallInterceptor(settings.default_deadline_seconds)],
            options=[
                # Clients discover new replicas only when they reconnect.
                ("grpc.max_connection_age_ms", 600_000),
                ("grpc.max_connection_age_grace_ms", 30_000),
                # Below the clients' ping interval (see `client`).
                ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", max_request_bytes),
            ],
        )

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pending = set(self._tasks)
        for _ in range(_CANCEL_TIMES):
            # Repeated, because before Python 3.12 asyncio.wait_for (used by every command of
            # redis-py) may swallow a cancellation, and the drain would hang.
            for task in pending:
                task.cancel()
            if pending:
                _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
        if pending:
            log.error("background_work_not_cancelled", work=[task.get_name() for task in pending])

    def add(
        self,
        register: Callable[[Servicer, grpc.aio.Server], None],
        servicer: Servicer,
        descriptor: FileDescriptor,
    ) -> None:
        """Adds a servicer: `register` is the generated add_…Servicer_to_server function,
        `descriptor` the DESCRIPTOR of its .proto file, whose services health and reflection
        then name."""
        register(servicer, self.grpc)
        self._service_names.update(s.full_name for s in descriptor.services_by_name.values())

    def add_background(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` beside the server until the drain is over; restarts it if it ends (see
        `keep_running`)."""
        self._background[name] = work

    def add_streams(self, end: Callable[[], None]) -> None:
        """Calls `end` when the drain begins: it ends open streams and refuses new ones. An open
        stream would make the drain last its whole time."""
        self._streams.append(end)

    async def serve(self) -> None:
        """Serves the added servicers, plus health and reflection over gRPC and HTTP (see
        `monitoring`), until SIGTERM or SIGINT. Raises OSError if an address is taken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = sorted(self._service_names)
        reflection.enable_server_reflection(
            [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.grpc
        )
        try:
            self.grpc.add_insecure_port(self._settings.listen)
        except RuntimeError as error:
            raise OSError(f"{self._name} cannot listen on {self._settings.listen}") from error
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.grpc.start()
        for name, work in self._background.items():
            self._tasks.append(asyncio.create_task(keep_running(name, work), name=name))
        monitoring = MonitoringServer(self._settings.metrics_listen, lambda: self._serving)
        tune_garbage_collector()
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._serving = True
        log.info("serving", address=self._settings.listen)

        await stop.wait()
        log.info("draining", seconds=self._settings.drain_seconds)
        self._serving = False
        await self._health.enter_graceful_shutdown()
        for end in self._streams:
            end()
        await self.grpc.stop(self._settings.drain_seconds)
        monitoring.close()
        log.info("stopped")

"""Several processes that share one listening socket."""

import multiprocessing
import os
import signal
import socket
import threading
from multiprocessing import connection


def run_workers(count: int, address: tuple[str, int], backlog: int) -> int:
    """Serves `address` with `count` processes until SIGTERM or SIGINT; each of them drains.

    Returns 0 if they were told to stop, 1 if one died, which ends all: whatever started us
    starts us again. Raises OSError if the address is taken.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.create_server(address, family=family, backlog=backlog)
    # Spawned, not forked: gRPC does not survive a fork.
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(listener,), name=f"gateway-{number}")
        for number in range(count)
    ]
    stop_asked, ask_to_stop = context.Pipe(duplex=False)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: ask_to_stop.send(None))
    for worker in workers:
        worker.start()
    connection.wait([stop_asked, *(worker.sentinel for worker in workers)])

    def stop_workers(*_: object) -> None:
        for worker in workers:
            worker.terminate()

    stop_workers()
    for signal_number in (signal.SIGTERM, signal.SIGINT):  # a second one is for them, too
        signal.signal(signal_number, stop_workers)
    # Or else the kernel goes on taking connections that nobody will accept.
    listener.close()
    for worker in workers:
        worker.join()
    # SIGTERM ends a worker that had not begun to serve.
    stopped_well = {0, -signal.SIGTERM}
    return 0 if all(worker.exitcode in stopped_well for worker in workers) else 1


def _work(listener: socket.socket) -> None:
    # Here and not at the top: a spawned process cannot find what is in the program's own module.
    from gateway.__main__ import serve

    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve([listener])


def _end_with_parent() -> None:
    """A parent that was killed could not stop us, and we would keep its address."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

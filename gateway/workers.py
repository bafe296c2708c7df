"""Several processes that share one listening socket."""

import multiprocessing
import os
import signal
import socket
import threading
from multiprocessing import connection


def run_workers(count: int, listener: socket.socket, admin_listener: socket.socket | None) -> int:
    """Serves `listener` with `count` processes until SIGTERM or SIGINT; each of them drains. The
    first process also serves `admin_listener`: one process counts the wrong keys, and operators
    cost the others nothing.

    Returns 0 after a requested stop. Returns 1 if a process died: then all stop, and the
    supervisor restarts the gateway.
    """
    # Spawned, not forked: gRPC does not survive a fork.
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=_work,
            args=(listener, admin_listener if number == 0 else None),
            name=f"gateway-{number}",
        )
        for number in range(count)
    ]
    stop_requested, request_stop = context.Pipe(duplex=False)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: request_stop.send(None))
    for worker in workers:
        worker.start()
    connection.wait([stop_requested, *(worker.sentinel for worker in workers)])

    def stop_workers(*_: object) -> None:
        for worker in workers:
            worker.terminate()

    stop_workers()
    for signal_number in (signal.SIGTERM, signal.SIGINT):  # a second signal is passed on too
        signal.signal(signal_number, stop_workers)
    # Otherwise the kernel would go on accepting connections that no process serves.
    listener.close()
    if admin_listener is not None:
        admin_listener.close()
    for worker in workers:
        worker.join()
    # SIGTERM ends a worker that has not begun to serve.
    expected = {0, -signal.SIGTERM}
    return 0 if all(worker.exitcode in expected for worker in workers) else 1


def _work(listener: socket.socket, admin_listener: socket.socket | None) -> None:
    # Imported here: the spawned process cannot unpickle functions of the program's main module.
    from gateway.__main__ import serve_worker

    threading.Thread(target=_exit_with_parent, daemon=True).start()
    serve_worker(listener, admin_listener)


def _exit_with_parent() -> None:
    """Ends this process when its parent has been killed, so that it does not hold the address."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

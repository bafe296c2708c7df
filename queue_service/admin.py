"""The operator's commands for a room: `python -m queue_service.admin show|pause|resume|…`.

Sends the admin token of QUEUE_ADMIN_TOKEN. It is no option, because other users of a machine can
see the arguments of a process.
"""

import asyncio
import os
from typing import Annotated

import typer

from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import AdminTokenRequired, credentials
from servicekit import client
from servicekit.errors import ServiceError

BUDGET_SECONDS = 5.0

app = typer.Typer(help="Shows a waiting room, or changes it while it runs.", no_args_is_help=True)
RoomOption = Annotated[str, typer.Option("--room", help="The room.")]
AddressOption = Annotated[
    str, typer.Option("--address", envvar="QUEUE_LISTEN", help="A queue_service, host:port.")
]
MAIN, LOCAL = "main", "127.0.0.1:9101"
Limit = Annotated[int, typer.Argument(min=0)]


@app.command()
def show(room: RoomOption = MAIN, address: AddressOption = LOCAL) -> None:
    """Shows the room's limits and counts."""
    asyncio.run(ask(address, queue_pb2.GetRoomRequest(room=room)))


@app.command()
def pause(room: RoomOption = MAIN, address: AddressOption = LOCAL) -> None:
    """Accepts no new fans and admits none; current admissions continue."""
    asyncio.run(ask(address, queue_pb2.UpdateRoomRequest(room=room, paused=True)))


@app.command()
def resume(room: RoomOption = MAIN, address: AddressOption = LOCAL) -> None:
    """Ends a pause."""
    asyncio.run(ask(address, queue_pb2.UpdateRoomRequest(room=room, paused=False)))


@app.command()
def capacity(number: Limit, room: RoomOption = MAIN, address: AddressOption = LOCAL) -> None:
    """Sets how many fans may be admitted at once; ends no admission."""
    asyncio.run(ask(address, queue_pb2.UpdateRoomRequest(room=room, capacity=number)))


@app.command()
def max_waiting(number: Limit, room: RoomOption = MAIN, address: AddressOption = LOCAL) -> None:
    """Sets how many fans may wait at once."""
    asyncio.run(ask(address, queue_pb2.UpdateRoomRequest(room=room, max_waiting=number)))


async def ask(
    address: str, request: queue_pb2.GetRoomRequest | queue_pb2.UpdateRoomRequest
) -> None:
    """Calls the service and prints the room; if that fails, prints one sentence and exits with
    status 2."""
    token = os.environ.get("QUEUE_ADMIN_TOKEN")
    metadata = credentials(token) if token else ()
    async with client.connect(address) as channel:
        stub = queue_pb2_grpc.QueueAdminServiceStub(channel)
        room: queue_pb2.GetRoomResponse | queue_pb2.UpdateRoomResponse
        try:
            if isinstance(request, queue_pb2.GetRoomRequest):
                room = await client.call(
                    stub.GetRoom, request, budget=BUDGET_SECONDS, metadata=metadata
                )
            else:
                room = await client.call(
                    stub.UpdateRoom, request, budget=BUDGET_SECONDS, metadata=metadata
                )
        except ServiceError as error:
            reason = {
                "UNAVAILABLE": (
                    f"No queue_service answers at {address}, or its Redis is unavailable."
                ),
                AdminTokenRequired.code: (
                    f"{address} refuses: set QUEUE_ADMIN_TOKEN to the admin token of queue_service."
                    " That of `make run` is printed by `.venv/bin/python -m harness.secrets`."
                ),
                "TIMEOUT": f"{address} did not answer within {BUDGET_SECONDS:.0f} s.",
            }.get(error.code, error.detail)
            typer.echo(reason, err=True)
            raise typer.Exit(2) from None
    typer.echo(
        f"{room.room}: {room.admitted} of {room.capacity} admitted, "
        f"{room.waiting} of {room.max_waiting} waiting"
        f"{', paused' if room.paused else ''}{', recovering' if room.recovering else ''}"
    )


if __name__ == "__main__":
    app()

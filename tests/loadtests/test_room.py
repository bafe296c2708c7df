"""The waiting room as the load tests operate it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from harness.errors import UserError
from harness.local import Ports
from loadtests.room import Room
from loadtests.target import Target
from protos.frontrow.queue.v1 import queue_pb2, queue_pb2_grpc
from queue_service.admin_guard import credentials


class Refusing(queue_pb2_grpc.QueueAdminServiceServicer):
    """Shows the room to whoever has the token."""

    def GetRoom(
        self, request: queue_pb2.GetRoomRequest, context: grpc.ServicerContext
    ) -> queue_pb2.GetRoomResponse:
        if credentials("right")[0] not in context.invocation_metadata():
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        return queue_pb2.GetRoomResponse(capacity=7)

    def UpdateRoom(
        self, request: queue_pb2.UpdateRoomRequest, context: grpc.ServicerContext
    ) -> queue_pb2.UpdateRoomResponse:
        return queue_pb2.UpdateRoomResponse(capacity=request.capacity)


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    queue_pb2_grpc.add_QueueAdminServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def target(address: str, admin_token: str) -> Target:
    return Target(
        base_url="http://127.0.0.1:9",
        mysql_urls={},
        redis_url="",
        kafka_bootstrap="",
        queue_addr=address,
        ports=Ports(),
        admin_token=admin_token,
    )


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_missing_or_wrong_admin_token_is_named(address: str, token: str) -> None:
    with pytest.raises(UserError, match=r"^The waiting room at .* refuses: set QUEUE_ADMIN_TOKEN"):
        Room(target(address, token))


def test_no_answer_names_the_address() -> None:
    with pytest.raises(UserError, match="set QUEUE_LISTEN"):
        Room(target("127.0.0.1:9", "right"))


def test_the_right_token_opens_the_room(address: str) -> None:
    with Room(target(address, "right")) as room:
        assert room.make_room_for(None) == 7

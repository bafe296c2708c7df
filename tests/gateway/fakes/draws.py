"""The draws that concert_service keeps, in memory."""

from protos.frontrow.concert.v1 import rooms_pb2, rooms_pb2_grpc
from servicekit.errors import NotFound
from tests.gateway.fakes.faults import Faults, service_error


class FakeDraws(rooms_pb2_grpc.DrawServiceServicer):
    """Draws by the names of their rooms, and their lists, in parts of `numbers_per_part`."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.reset()

    def reset(self) -> None:
        """Forgets all draws."""
        self.draws: dict[str, rooms_pb2.GetDrawResponse] = {}
        self.numbers: dict[str, list[int]] = {}
        self.numbers_per_part = 100_000

    async def GetDraw(
        self, request: rooms_pb2.GetDrawRequest, context: object
    ) -> rooms_pb2.GetDrawResponse:
        await self.faults.before("GetDraw", request)
        if request.room not in self.draws:
            raise service_error("ROOM_NOT_FOUND", NotFound)
        return self.draws[request.room]

    async def GetCohort(
        self, request: rooms_pb2.GetCohortRequest, context: object
    ) -> rooms_pb2.GetCohortResponse:
        await self.faults.before("GetCohort", request)
        end = request.offset + self.numbers_per_part
        return rooms_pb2.GetCohortResponse(
            numbers=self.numbers[request.room][request.offset : end],
            cohort=self.draws[request.room].cohort,
        )

    async def PutCohort(
        self, request: rooms_pb2.PutCohortRequest, context: object
    ) -> rooms_pb2.PutCohortResponse:
        raise NotImplementedError("the gateway does not call this")

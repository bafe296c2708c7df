"""Runs concert_service: `python -m concert_service`."""

from concert_service.catalogue_repository import CatalogueRepository
from concert_service.catalogue_servicer import CatalogueServicer
from concert_service.catalogue_watch import CatalogueWatchers
from concert_service.events.document import MAX_MESSAGE_BYTES
from concert_service.events.repository import EventRepository
from concert_service.events.service import EventService
from concert_service.events.servicer import CatalogueAdminServicer
from concert_service.operators.repository import OperatorRepository
from concert_service.operators.service import OperatorService
from concert_service.operators.servicer import OperatorServicer
from concert_service.repository import ConcertRepository
from concert_service.rooms.draws import DrawService
from concert_service.rooms.repository import RoomRepository
from concert_service.rooms.service import RoomService
from concert_service.rooms.servicer import DrawServicer, RoomAdminServicer
from concert_service.seat_map_repository import SeatMapRepository
from concert_service.seat_map_service import SeatMapService
from concert_service.service import ConcertService
from concert_service.servicer import ConcertServicer
from concert_service.settings import Settings
from protos.frontrow.concert.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    concert_pb2,
    concert_pb2_grpc,
    operators_pb2,
    operators_pb2_grpc,
    rooms_pb2,
    rooms_pb2_grpc,
)
from servicekit import logs
from servicekit.mysql import Database
from servicekit.server import Server, run
from servicekit.settings import load, warn_of_unknown


async def main() -> None:
    settings = load(Settings)
    logs.configure(settings.log_level)
    warn_of_unknown(settings)
    async with (
        Database(settings.mysql_url, max_size=settings.mysql_connections) as database,
        Server(settings, "concert_service", max_request_bytes=MAX_MESSAGE_BYTES) as server,
    ):
        server.add(
            concert_pb2_grpc.add_ConcertServiceServicer_to_server,
            ConcertServicer(
                ConcertService(ConcertRepository(database)),
                SeatMapService(SeatMapRepository(database)),
            ),
            concert_pb2.DESCRIPTOR,
        )
        watchers = CatalogueWatchers(CatalogueRepository(database))
        server.add(
            catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server,
            CatalogueServicer(watchers),
            catalogue_pb2.DESCRIPTOR,
        )
        server.add(
            catalogue_pb2_grpc.add_CatalogueAdminServiceServicer_to_server,
            CatalogueAdminServicer(EventService(EventRepository(database))),
            catalogue_pb2.DESCRIPTOR,
        )
        server.add_background("catalogue", watchers.run)
        server.add_streams(watchers.end)
        server.add(
            operators_pb2_grpc.add_OperatorServiceServicer_to_server,
            OperatorServicer(OperatorService(OperatorRepository(database))),
            operators_pb2.DESCRIPTOR,
        )
        rooms = RoomRepository(database)
        server.add(
            rooms_pb2_grpc.add_RoomAdminServiceServicer_to_server,
            RoomAdminServicer(RoomService(rooms)),
            rooms_pb2.DESCRIPTOR,
        )
        server.add(
            rooms_pb2_grpc.add_DrawServiceServicer_to_server,
            DrawServicer(DrawService(rooms)),
            rooms_pb2.DESCRIPTOR,
        )
        await server.serve()


if __name__ == "__main__":
    run(main)

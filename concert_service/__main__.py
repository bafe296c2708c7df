"""The wiring of concert_service: `python -m concert_service`."""

from concert_service.repository import ConcertRepository
from concert_service.service import ConcertService
from concert_service.servicer import ConcertServicer
from concert_service.settings import ConcertSettings
from protos.frontrow.concert.v1 import concert_pb2, concert_pb2_grpc
from servicekit import logs, server
from servicekit.mysql import Database
from servicekit.settings import load


async def main() -> None:
    settings = load(ConcertSettings)
    logs.configure(settings.log_level)
    async with (
        Database(settings.mysql_url, max_size=settings.mysql_connections) as database,
        server.Server(settings, "concert_service") as serving,
    ):
        service = ConcertService(
            ConcertRepository(database),
            cached_schedules=settings.cached_schedules,
            cache_seconds=settings.cache_seconds,
        )
        concert_pb2_grpc.add_ConcertServiceServicer_to_server(
            ConcertServicer(service), serving.grpc
        )
        await serving.serve(concert_pb2.DESCRIPTOR)


if __name__ == "__main__":
    server.run(main)

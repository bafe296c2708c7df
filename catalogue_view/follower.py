"""The stream from concert_service that tells of each change of the catalogue."""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc

from protos.frontrow.concert.v1 import catalogue_pb2
from protos.limits import CATALOGUE_BEAT_SECONDS
from servicekit import logs
from servicekit.client import open_responses
from servicekit.errors import ServiceError, Unavailable
from servicekit.retries import Outage
from servicekit.rpc_errors import RemoteError

if TYPE_CHECKING:  # a type that exists in the stub file only
    from protos.frontrow.concert.v1.catalogue_pb2_grpc import CatalogueServiceAsyncStub

log = logs.get(__name__)

SILENT_SECONDS = 2 * CATALOGUE_BEAT_SECONDS
"""A stream without any message for so long has no peer: a replica that hangs, or a lost network."""
LONGEST_PAUSE_SECONDS = 1.0
"""Between two attempts to open the stream."""
UNSUPPORTED_SECONDS = 5.0
"""The same while concert_service is of the version before, which has no stream. It may be replaced
at any moment."""


class CatalogueFollower:
    """Follows the catalogue, one stream at a time.

    `apply` is called with each message, in the order of the versions, and must not fail. The first
    message of the process is a reset, and so is one after changes that this process cannot catch up
    with: everything that was made of the catalogue is then out of date. A message may have no
    concerts and no rooms. While there is no stream, changes are missed and come with the next one:
    copies need a greatest age besides.

        follower = CatalogueFollower(CatalogueServiceStub(channel), apply)
        server.add_background("catalogue", follower.run)
    """

    def __init__(
        self,
        stub: "CatalogueServiceAsyncStub",
        apply: Callable[[catalogue_pb2.WatchCatalogueResponse], None],
    ) -> None:
        self._stub = stub
        self._apply = apply
        self._heard = False
        self._outage = Outage(log, "catalogue_stream_unavailable", "catalogue_stream_available")
        self.version = 0
        """The version of the catalogue that was applied last; 0: none yet."""

    async def run(self) -> None:
        """Applies each change, until cancelled. Reconnects at once when a stream ends, and after at
        most a second when it cannot be opened."""
        failures, is_supported = 0, True
        while True:
            self._heard = False
            error = await self._follow()
            was_supported, is_supported = is_supported, not _is_unimplemented(error)
            if not is_supported:
                if was_supported:
                    log.info("catalogue_stream_unsupported", retry_seconds=UNSUPPORTED_SECONDS)
                await asyncio.sleep(UNSUPPORTED_SECONDS)
                continue
            # Each stream ends some day, because its server stops or its connection gets old. The
            # next one begins at once, at another replica.
            failures = 0 if self._heard else failures + 1
            if failures > 1:
                self._outage.failed(error)
            if failures:
                longest = min(LONGEST_PAUSE_SECONDS, 0.05 * 2 ** min(failures, 5))
                await asyncio.sleep(random.uniform(longest / 2, longest))

    async def _follow(self) -> ServiceError | TimeoutError:
        """Applies changes until the stream ends, and returns why."""
        request = catalogue_pb2.WatchCatalogueRequest(after_version=self.version)
        try:
            async with (
                asyncio.timeout(SILENT_SECONDS) as silence,
                open_responses(
                    self._stub.WatchCatalogue, request, expected=grpc.StatusCode.UNIMPLEMENTED
                ) as responses,
            ):
                async for response in responses:
                    silence.reschedule(asyncio.get_running_loop().time() + SILENT_SECONDS)
                    self._heard = True
                    self._outage.succeeded()
                    self._apply(response)
                    self.version = response.version
        except (ServiceError, TimeoutError) as error:
            return error
        return Unavailable("The server has ended the stream.")


def _is_unimplemented(error: Exception) -> bool:
    return isinstance(error, RemoteError) and error.status is grpc.StatusCode.UNIMPLEMENTED

"""The limit of open files: set at start, watched afterwards.

Every connection is an open file. The server keeps some files for everything else, so that they
never run out: at the limit, new connections wait until others are closed.
"""

import asyncio
import os
import resource
import time

from prometheus_client import Gauge

from servicekit import logs

# Files for everything but connections: about 60 are open while nobody is connected.
_RESERVED = 256
_WATCH_SECONDS = 1.0
_REPEAT_SECONDS = 60.0

OPEN_FILES = Gauge("open_files", "Open files of a process.", multiprocess_mode="livemax")
OPEN_FILES_LIMIT = Gauge(
    "open_files_limit", "Most open files of a process.", multiprocess_mode="livemax"
)

log = logs.get(__name__)


class OpenFiles:
    """The open files of this process, and how many of them may be connections."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.connections = max(limit - _RESERVED, limit // 2)
        self.exhausted = False
        self._logged_at = -_REPEAT_SECONDS
        OPEN_FILES_LIMIT.set(limit)

    def check(self) -> None:
        """Counts the open files. While connections may use no more, sets `exhausted` and logs it
        once a minute."""
        opened = count_open_files()
        OPEN_FILES.set(opened)
        self.exhausted = opened >= self.connections
        if self.exhausted and time.monotonic() - self._logged_at >= _REPEAT_SECONDS:
            self._logged_at = time.monotonic()
            log.warning("open_files_exhausted", open_files=opened, limit=self.limit)

    async def watch(self) -> None:
        """Checks every second, until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(_WATCH_SECONDS)


def set_limit(wanted: int) -> OpenFiles:
    """Sets the limit of this process to `wanted`, or to its hard limit if that is lower.

    Also lowers a higher limit: each file may be a connection, and more than `wanted` would not fit
    into the memory of the process."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    open_files = OpenFiles(limit)
    log.info(
        "open_files_limit",
        soft=limit,
        soft_before=before,
        hard=hard,
        connections=open_files.connections,
    )
    return open_files


def count_open_files() -> int:
    """Returns the number of open files of this process."""
    # Linux has it as the size of the directory since 6.2. Listing 15,000 takes some milliseconds.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))

"""What a room writes to Redis, and how to lose the end of it."""

import asyncio
from dataclasses import dataclass

from redis.asyncio import Redis

from tests.queue_service.conftest import OwnRedis


@dataclass(frozen=True)
class View:
    """What Redis knows of a room."""

    waiting: tuple[int, ...]
    admitted: frozenset[int]
    users: dict[int, int]

    @property
    def live(self) -> set[int]:
        return {*self.waiting, *self.admitted}


class Log:
    """The commands of one room, and how to lose the last of them: puts back copies of the keys of
    an earlier moment and changes the replication id that wrote them, as a restart does.
    `test_a_copy_is_what_a_cut_leaves` compares that with a log that is cut."""

    KEYS = ("state", "waiting", "admitted", "unclaimed", "users", "places", "known", "ended",
            "restored", "changes")  # fmt: skip

    def __init__(self, redis: Redis, room: str) -> None:
        self.redis = redis
        self.room = room
        self.copies: list[list[bytes | None]] = []

    def key(self, name: str) -> str:
        return f"{{queue:{self.room}}}:{name}"

    async def note(self) -> View:
        """Notes a moment to which `cut` may go back; returns what Redis knows."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.zrange(self.key("waiting"), 0, -1)
            pipe.zrange(self.key("admitted"), 0, -1)
            pipe.hgetall(self.key("users"))
            for name in self.KEYS:
                pipe.dump(self.key(name))
            waiting, admitted, users, *copies = await pipe.execute()
        self.copies.append(copies)
        return View(
            tuple(int(number) for number in waiting),
            frozenset(int(number) for number in admitted),
            {int(user): int(number) for user, number in users.items()},
        )

    async def contents(self) -> dict[str, object]:
        """The keys of the room, whatever their encoding."""
        found: dict[str, object] = {}
        for name in self.KEYS:
            key = self.key(name)
            kind = await self.redis.type(key)
            if kind == b"hash":
                found[name] = await self.redis.hgetall(key)
            elif kind == b"zset":
                found[name] = await self.redis.zrange(key, 0, -1, withscores=True)
            elif kind == b"set":
                found[name] = await self.redis.smembers(key)
            elif kind == b"stream":
                found[name] = await self.redis.xrange(key)
        return found

    async def cut(self, moment: int, *, unnoticed: bool = False) -> None:
        """Everything after that moment is lost. `unnoticed`: under the same replication id, as if
        the address led to a replica that was behind, and back."""
        async with self.redis.pipeline(transaction=True) as pipe:
            for name, copy in zip(self.KEYS, self.copies[moment], strict=True):
                pipe.delete(self.key(name))
                if copy is not None:
                    pipe.restore(self.key(name), 0, copy)
            if self.copies[moment][0] is not None and not unnoticed:
                pipe.hset(self.key("state"), "replid", "0")
            await pipe.execute()
        await asyncio.sleep(0.002)  # no restart takes less: epochs differ by milliseconds
        del self.copies[moment + 1 :]


class RealLog(Log):
    """Kills Redis and cuts its append-only file."""

    def __init__(self, redis: Redis, room: str, server: OwnRedis) -> None:
        super().__init__(redis, room)
        self.server = server
        self.sizes: list[int] = []

    async def note(self) -> View:
        view = await super().note()
        self.sizes.append(self.server.written())
        return view

    async def cut(self, moment: int, *, unnoticed: bool = False) -> None:
        assert not unnoticed
        self.server.kill()
        self.server.lose_after(self.sizes[moment])
        self.server.start()
        del self.copies[moment + 1 :], self.sizes[moment + 1 :]

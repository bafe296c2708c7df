"""Lists and replays dead letters.

    python -m servicekit.dead_letters list payment.events.dlq --bootstrap 127.0.0.1:9092
    python -m servicekit.dead_letters replay payment.events.dlq --bootstrap 127.0.0.1:9092

A replay publishes every dead letter that exists now and was not replayed before to its original
topic, with its original key, value and headers. Only the group that failed on it handles it; other
groups skip it. A record that fails again becomes a new dead letter.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from servicekit.errors import Unavailable
from servicekit.kafka import Producer, Record
from servicekit.kafka.records import DEAD_LETTER_HEADER, DEAD_LETTER_SUFFIX, REPLAY_HEADER

# The time limit of each step: connect, read, publish, commit.
STEP_SECONDS = 15.0

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Dead letters of Kafka topics.")

Topic = Annotated[str, typer.Argument(help="Such as payment.events.dlq.")]
Bootstrap = Annotated[str, typer.Option(envvar="KAFKA_BOOTSTRAP", help="Brokers, host:port.")]


async def replay(topic: str, bootstrap: str) -> int:
    """Replays `topic` and returns the number of replayed letters. Raises KafkaError, Unavailable or
    TimeoutError if Kafka is unavailable; letters replayed until then are not replayed again."""
    count = 0
    async with _open(topic, bootstrap) as consumer, Producer(bootstrap) as producer:
        async with asyncio.timeout(STEP_SECONDS):
            replayed = await _replayed(consumer)
        for partition, offset in replayed.items():
            consumer.seek(partition, offset)
        async for partition, letters in _read(consumer):
            await producer.publish([_original(letter) for letter in letters], STEP_SECONDS)
            async with asyncio.timeout(STEP_SECONDS):
                await consumer.commit({partition: letters[-1].offset + 1})
            count += len(letters)
    return count


async def describe(topic: str, bootstrap: str) -> list[str]:
    """Returns one line per letter, the oldest of each partition first."""
    lines = []
    async with _open(topic, bootstrap) as consumer:
        async with asyncio.timeout(STEP_SECONDS):
            replayed = await _replayed(consumer)
            await consumer.seek_to_beginning()
        async for partition, letters in _read(consumer):
            for letter in letters:
                origin = {
                    name.removeprefix(DEAD_LETTER_HEADER): value.decode(errors="replace")
                    for name, value in letter.headers
                    if name.startswith(DEAD_LETTER_HEADER)
                }
                facts = " ".join(f"{name}={value}" for name, value in origin.items())
                state = "replayed" if letter.offset < replayed[partition] else "waiting"
                key = (letter.key or b"").decode(errors="replace")
                lines.append(f"{partition.partition}/{letter.offset} {state} key={key} {facts}")
    return lines


@asynccontextmanager
async def _open(topic: str, bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        # Its committed offsets record what was replayed; no consumer joins it.
        group_id=f"{topic}.replay",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=10_000,
    )
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await consumer.start()
            partitions = await consumer._client._wait_on_metadata(topic)
        consumer.assign([TopicPartition(topic, number) for number in sorted(partitions)])
        yield consumer
    finally:
        async with asyncio.timeout(STEP_SECONDS):
            await consumer.stop()


async def _replayed(consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    """Returns the offset up to which each partition was replayed."""
    partitions = consumer.assignment()
    beginnings = await consumer.beginning_offsets(partitions)
    return {
        partition: max(await consumer.committed(partition) or 0, beginnings[partition])
        for partition in partitions
    }


async def _read(consumer: AIOKafkaConsumer) -> AsyncIterator[tuple[TopicPartition, list[Any]]]:
    """Yields batches from the position of the consumer to the end as of now."""
    async with asyncio.timeout(STEP_SECONDS):
        ends = await consumer.end_offsets(consumer.assignment())
        unread = {p for p, end in ends.items() if await consumer.position(p) < end}
    while unread:
        async with asyncio.timeout(STEP_SECONDS):
            while not (batches := await consumer.getmany(*unread, timeout_ms=1_000)):
                pass
        for partition, records in batches.items():
            if records[-1].offset + 1 >= ends[partition]:
                unread.discard(partition)
            letters = [record for record in records if record.offset < ends[partition]]
            if letters:
                yield partition, letters


def _original(letter: Any) -> Record:
    headers = dict(letter.headers)
    topic = headers.get(DEAD_LETTER_HEADER + "topic", b"").decode()
    group = headers.get(DEAD_LETTER_HEADER + "group")
    return Record(
        topic=topic or letter.topic.removesuffix(DEAD_LETTER_SUFFIX),
        key=letter.key or b"",
        value=letter.value or b"",
        headers={
            name: value
            for name, value in headers.items()
            if not name.startswith(DEAD_LETTER_HEADER)
        }
        | ({REPLAY_HEADER: group} if group else {}),
    )


@app.command("replay")
def replay_command(topic: Topic, bootstrap: Bootstrap = "127.0.0.1:9092") -> None:
    """Replays the letters that were not replayed yet to their original topic."""
    count = _run(replay(topic, bootstrap), bootstrap)
    typer.echo(f"{topic}: {count} replayed.")


@app.command("list")
def list_command(topic: Topic, bootstrap: Bootstrap = "127.0.0.1:9092") -> None:
    """Lists the letters: partition/offset, whether replayed, key, and origin."""
    lines = _run(describe(topic, bootstrap), bootstrap)
    for line in lines:
        typer.echo(line)
    typer.echo(f"{topic}: {len(lines)} dead letters.")


def _run(work: Any, bootstrap: str) -> Any:
    try:
        return asyncio.run(work)
    except (KafkaError, Unavailable, OSError, TimeoutError) as error:
        typer.echo(f"Kafka at {bootstrap} failed ({type(error).__name__}).", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()

"""Kafka: publishing with acknowledgement, and consuming until cancelled.

Delivery is at least once, in order per key, in both directions: a record whose delivery is
uncertain is sent or handled again, so handlers must be idempotent. A service starts and serves
while Kafka is unavailable. aiokafka's exceptions are translated to Unavailable in this package.
"""

from servicekit.kafka.consumer import Consumer
from servicekit.kafka.delivery import Handler
from servicekit.kafka.producer import Producer, hash_of_key
from servicekit.kafka.records import PoisonRecord, Record

__all__ = ["Consumer", "Handler", "PoisonRecord", "Producer", "Record", "hash_of_key"]

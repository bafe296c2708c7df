from __future__ import annotations

import dataclasses
import json
import stat
import uuid
from pathlib import Path

import pymysql
import pytest
import redis

from harness.errors import UserError
from harness.local import Ports, Stack
from harness.local.process import in_parallel
from harness.secrets import Secrets
from harness.topology import BY_MODULE


def test_secrets_are_stored_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    made = Secrets.load_or_create(path)
    assert Secrets.load_or_create(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # A file from before there was an admin token gets one, once.
    before = dataclasses.asdict(made)
    del before["admin_token"]
    path.write_text(json.dumps(before))
    renewed = Secrets.load_or_create(path)
    assert len(renewed.admin_token) == 64
    assert renewed == dataclasses.replace(made, admin_token=renewed.admin_token)
    assert Secrets.load_or_create(path) == renewed
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Secrets.load_or_create(path)


def test_programs_get_each_others_addresses(tmp_path: Path) -> None:
    ports = Ports.free()
    stack = Stack(tmp_path, ports)
    gateway = stack.environment("gateway")
    assert gateway["GATEWAY_PAYMENT_ADDR"] == stack.address("payment_service")
    queue = stack.environment("queue_service")
    assert json.loads(queue["QUEUE_TOKEN_KEYS"]) == json.loads(gateway["GATEWAY_TOKEN_KEYS"])
    assert queue["QUEUE_ADMIN_TOKEN"] == stack.secrets.admin_token
    assert "QUEUE_ADMIN_TOKEN" not in gateway
    assert queue["QUEUE_TOKEN_SIGNING_KEY_ID"] in json.loads(queue["QUEUE_TOKEN_KEYS"])
    assert stack.environment("concert_service")["CONCERT_MYSQL_URL"] == stack.mysql_url("concert")


def test_settings_of_the_shell_count_only_under_make_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_LISTEN", "0.0.0.0:7001")
    monkeypatch.setenv("QUEUE_CAPACITY", "7")
    alone = Stack(tmp_path, Ports(), program_env={"queue_service": {"QUEUE_CAPACITY": "8"}})
    assert alone.environment("queue_service")["QUEUE_CAPACITY"] == "8"
    assert alone.address("queue_service") == "127.0.0.1:9101"
    assert "QUEUE_CAPACITY" not in alone.environment("gateway")
    operated = Stack(tmp_path, Ports(), inherit_settings=True)
    assert operated.environment("queue_service")["QUEUE_CAPACITY"] == "7"
    assert operated.address("queue_service") == "127.0.0.1:7001"


def test_a_replica_has_ports_of_its_own(tmp_path: Path) -> None:
    stack = Stack(tmp_path, Ports.free())
    replica = stack.add_replica("queue_service", {"QUEUE_CAPACITY": "5"})
    assert stack.process("queue_service_2") is replica
    assert replica.environment["QUEUE_CAPACITY"] == "5"
    assert stack.add_replica("queue_service").name == "queue_service_3"
    assert len({program.address for program in stack.programs}) == len(BY_MODULE) + 2


def test_kafka_accepts_every_cluster_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One random id in 64 begins with "-", as an option does."""
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xf8" * 16))
    Stack(tmp_path, Ports.free()).kafka.prepare()
    (kept,) = tmp_path.rglob("meta.properties")
    assert "cluster.id=-Pj4" in kept.read_text()


def test_real_redis_and_mariadb_survive_a_kill_with_their_data(tmp_path: Path) -> None:
    with Stack(tmp_path / ("long" * 30), Ports.free(), buffer_pool="16M") as stack:
        in_parallel([stack.redis.start, stack.mariadb.start], stack._stopping)
        stack.create_databases()
        stack.create_databases()

        def query(sql: str, database: str = "concert") -> tuple[tuple[object, ...], ...]:
            with (
                pymysql.connect(
                    host="127.0.0.1",
                    port=stack.ports["mariadb"],
                    user="concert",
                    password=stack.secrets.mysql["concert"],
                    database=database,
                    autocommit=True,
                ) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute(sql)
                return tuple(cursor.fetchall())

        query("CREATE TABLE kept (id INT PRIMARY KEY)")
        query("INSERT INTO kept VALUES (42)")
        with redis.Redis.from_url(stack.redis_url) as client:
            client.set("kept", "42")
            # appendfsync everysec: the write is in the kernel already, which is not killed.
            stack.redis.kill()
            stack.mariadb.kill()
            in_parallel([stack.redis.start, stack.mariadb.start], stack._stopping)
            assert client.get("kept") == b"42"
        assert query("SELECT id FROM kept") == ((42,),)
        assert query("SELECT @@tx_isolation, @@time_zone") == (("READ-COMMITTED", "+00:00"),)
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            query("SELECT 1", database="payment")

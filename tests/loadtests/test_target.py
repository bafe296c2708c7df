"""The system under test, as the load tests see it, and the command that counts its invariants."""

import dataclasses
import os
import subprocess
import time

import pytest

from harness.errors import UserError
from harness.invariants import INVARIANTS
from harness.local import Ports, Stack
from loadtests import verify
from loadtests.metrics import ProcessTree, Watch
from loadtests.target import Target


@pytest.fixture
def target(
    servers: Stack, redis_url: str, mysql_urls: dict[str, str], kafka_bootstrap: str
) -> Target:
    return Target(
        base_url="http://127.0.0.1:9",
        mysql_urls=mysql_urls,
        redis_url=redis_url,
        kafka_bootstrap=kafka_bootstrap,
        queue_addr="127.0.0.1:9",
        ports=servers.ports,
        own=True,
    )


def test_the_services_users_can_read_what_the_invariants_need(target: Target) -> None:
    assert verify.settled(target, within=0).keys() == {each.name for each in INVARIANTS}


def test_a_store_that_does_not_answer_is_one_sentence(target: Target) -> None:
    url = "mysql://a:b@127.0.0.1:9/reservation"
    away = dataclasses.replace(target, mysql_urls={"reservation": url})
    with pytest.raises(UserError, match=r"reservation at 127\.0\.0\.1:9 cannot be read"):
        verify.settled(away)


def test_a_database_that_is_not_seeded_is_one_sentence(target: Target) -> None:
    with pytest.raises(
        UserError, match=r"not seeded: .* make stop and then make run .* make up SEED"
    ):
        target.volume()


def test_a_schema_without_tables_is_one_sentence(target: Target) -> None:
    urls = {**target.mysql_urls, "payment": target.mysql_urls["concert"]}
    wrong = dataclasses.replace(target, mysql_urls=urls)
    with pytest.raises(UserError, match=r"payment .* does not answer as it should .*is it mig"):
        verify.settled(wrong, within=1.0)


def test_a_database_that_does_not_show_what_was_sold_is_another(target: Target) -> None:
    before = target.sold()
    with target.database("reservation") as cursor:
        cursor.execute(
            """INSERT INTO reservation (id, user_id, seat_id, schedule_id, seat_num, price, status,
                held_until, lapses_at, created_at, updated_at)
            VALUES (%s, 1, 1, 1, 'A1', 1, 'HELD', NOW(6), NOW(6), NOW(6), NOW(6))""",
            (before + 1,),
        )
        target.require_sold(before, 1)
        with pytest.raises(UserError, match=r"shows 1 reservations .* gateway gave 2"):
            target.require_sold(before, 2)
        cursor.execute("DELETE FROM reservation WHERE id = %s", (before + 1,))


def test_a_process_that_has_just_ended_is_left_out(target: Target) -> None:
    child = subprocess.Popen(["sleep", "0"])
    child.wait()
    with Watch(target, {"gone": ProcessTree(child.pid), "here": ProcessTree(os.getpid())}) as watch:
        deadline = time.monotonic() + 20
        while not watch.points and time.monotonic() < deadline:
            time.sleep(0.1)
    assert watch.points[0].cpu["gone"] == 0
    assert watch.points[0].mb["here"] > 0


def test_listeners_are_found(target: Target) -> None:
    assert {"redis", "mariadb", "kafka"} <= target.pids().keys()
    assert dataclasses.replace(target, ports=Ports.free()).pids() == {}

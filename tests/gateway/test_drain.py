"""The drain, with real servers and real connections."""

import asyncio
import signal
import time
from asyncio import to_thread

import httpx
import pytest

from tests.gateway.attackers import BUNDLE, LIVE, connect, end_of, read, read_some, statuses
from tests.gateway.fakes import Services
from tests.gateway.polling import until
from tests.gateway.serving import addresses_of, free_address, program, serving

# Longer than any test: a second signal ends the announcement.
ANNOUNCE_SECONDS = 60.0


class Load:
    """Clients that poll, each over one connection, until a response says that it closes."""

    def __init__(self, url: str, token: str, clients: int = 10) -> None:
        self._url = url
        self._headers = {"X-Access-Token": token}
        self.answers: list[list[int]] = [[] for _ in range(clients)]
        self._clients = [asyncio.create_task(self._poll(answers)) for answers in self.answers]

    async def _poll(self, answers: list[int]) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        async with httpx.AsyncClient(base_url=self._url, limits=limits, timeout=30) as client:
            while True:
                response = await client.get("/queues/order", headers=self._headers)
                answers.append(response.status_code)
                if response.headers.get("Connection") == "close":
                    return

    async def is_under_way(self) -> None:
        """Returns once every client has had a response that keeps its connection."""
        await until(lambda: all(len(answers) > 1 for answers in self.answers))
        assert not any(client.done() for client in self._clients)

    async def succeeds(self) -> None:
        """Waits until every client has had a closing response. Raises the first error of any."""
        await asyncio.wait_for(asyncio.gather(*self._clients), 30)
        assert {status for answers in self.answers for status in answers} == {200}


async def test_no_client_is_disconnected(services: Services) -> None:
    token = services.token()
    async with serving(services, drain_announce_seconds=ANNOUNCE_SECONDS) as gateway:
        server, running, url = gateway.server, gateway.running, gateway.url
        load = Load(url, token)
        await load.is_under_way()
        server.handle_signal(signal.SIGTERM)
        await load.succeeds()
        # New clients are still served, and their connections closed.
        async with httpx.AsyncClient(base_url=url) as late:
            ready = await late.get("/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            assert (await late.get("/health/live")).status_code == 200
            response = await late.get("/queues/order", headers={"X-Access-Token": token})
            assert (response.status_code, response.headers["Connection"]) == (200, "close")
            missing = await late.get("/nowhere")
            assert (missing.status_code, missing.headers["Connection"]) == (404, "close")
        server.handle_signal(signal.SIGTERM)
        await running
        async with httpx.AsyncClient(base_url=url) as too_late:
            with pytest.raises(httpx.ConnectError):
                await too_late.get("/health/live")


async def test_accepted_requests_are_answered_after_the_listener_closed(
    services: Services,
) -> None:
    services.faults.delays["HoldSeats"] = 0.5
    headers = {"X-Access-Token": services.token()}
    async with serving(services) as gateway, httpx.AsyncClient() as client:
        server, running, url = gateway.server, gateway.running, gateway.url
        slow = asyncio.create_task(
            client.post(
                f"{url}/concerts/reservation",
                json={"userId": 42, "concertSeatId": 101},
                headers=headers,
            )
        )
        await until(lambda: bool(services.faults.of("HoldSeats")))
        server.handle_signal(signal.SIGTERM)
        response = await slow
        assert (response.status_code, response.json()["reservationId"]) == (200, 1)
        assert response.headers["Connection"] == "close"
        await running


async def test_idle_connections_are_answered_through_the_whole_drain_and_then_get_a_fin(
    services: Services,
) -> None:
    services.faults.delays["HoldSeats"] = 1.5  # the drain waits for this request
    headers = {"X-Access-Token": services.token()}
    async with (
        serving(services, drain_announce_seconds=0.5) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        busy = [await to_thread(connect, gateway.port) for _ in range(20)]
        idle = [await to_thread(connect, gateway.port) for _ in range(20)]
        for connection in (*busy, *idle):
            connection.sendall(LIVE)
            assert statuses(await to_thread(read_some, connection, 5)) == [200]
        slow = asyncio.create_task(
            client.post(
                "/concerts/reservation", json={"userId": 42, "concertSeatId": 101}, headers=headers
            )
        )
        await until(lambda: bool(services.faults.of("HoldSeats")))
        gateway.server.handle_signal(signal.SIGTERM)
        for connection in busy:  # a request every 60 ms: for 1.2 s
            connection.sendall(LIVE)
            response = await to_thread(read, connection, 5)  # until the server closes
            assert b"\r\nconnection: close\r\n" in response
            assert statuses(response) == [200]
            await asyncio.sleep(0.06)
        assert not slow.done()
        with pytest.raises(TimeoutError):  # a new connection: its first packet is dropped
            async with asyncio.timeout(0.05):
                await asyncio.open_connection("127.0.0.1", gateway.port)
        assert (await slow).status_code == 200
        await gateway.running
        assert {await to_thread(end_of, connection, 5) for connection in idle} == {"FIN"}
        for connection in (*busy, *idle):
            connection.close()


async def test_a_connection_that_waits_to_be_accepted_is_served(services: Services) -> None:
    """Closing the listener would reset it."""
    async with serving(services, open_files=2, drain_announce_seconds=0.2) as gateway:
        holder = await to_thread(connect, gateway.port)  # the only connection that is accepted
        waiting = await to_thread(connect, gateway.port)
        waiting.sendall(LIVE)
        gateway.server.handle_signal(signal.SIGTERM)
        await asyncio.sleep(0.25)  # the announcement is over
        holder.close()
        assert statuses(await to_thread(read, waiting, 5)) == [200]
        waiting.close()
        await asyncio.wait_for(gateway.running, 5)


async def test_a_client_from_far_that_connected_before_the_drain_is_served(
    services: Services,
) -> None:
    async with serving(services, drain_announce_seconds=1) as gateway:
        with await to_thread(connect, gateway.port) as client:
            for _ in range(2):  # the second signal ends the announcement
                gateway.server.handle_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)  # a round trip
            client.sendall(LIVE)
            assert statuses(await to_thread(read, client, 5)) == [200]
        await asyncio.wait_for(gateway.running, 5)


async def test_a_kernel_without_packet_filters_cuts_no_request(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.server._SO_ATTACH_FILTER", 9_999)  # ENOPROTOOPT
    services.faults.delays["GetPositions"] = 0.3
    headers = {"X-Access-Token": services.token()}
    async with serving(services) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        slow = asyncio.create_task(client.get("/queues/order", headers=headers))
        await until(lambda: gateway.drain.requests == 1)
        gateway.server.handle_signal(signal.SIGTERM)
        assert (await slow).status_code == 200
        await asyncio.wait_for(gateway.running, 5)
    events = [each for each in caplog.records if each.getMessage() == "new_connections_not_refused"]
    assert [each.levelname for each in events] == ["WARNING"]


@pytest.mark.parametrize("sent", [LIVE[:20], BUNDLE], ids=["half a head", "a slow reader"])
async def test_what_never_ends_is_closed_after_the_drain(services: Services, sent: bytes) -> None:
    async with serving(services, drain_seconds=1) as gateway:
        with await to_thread(connect, gateway.port, receive_buffer=4_096) as client:
            client.sendall(sent)
            await asyncio.sleep(0.2)
            gateway.server.handle_signal(signal.SIGTERM)
            await asyncio.wait_for(gateway.running, 5)
            assert await to_thread(end_of, client, 5) == "FIN"


async def test_ctrl_c_during_the_drain_skips_waiting_for_requests(services: Services) -> None:
    async with serving(services, drain_seconds=60) as gateway:
        with await to_thread(connect, gateway.port, receive_buffer=4_096) as client:
            client.sendall(BUNDLE)
            await until(lambda: gateway.drain.requests == 1)
            gateway.server.handle_signal(signal.SIGINT)
            await asyncio.sleep(0.2)
            assert not gateway.running.done()
            gateway.server.handle_signal(signal.SIGINT)
            await asyncio.wait_for(gateway.running, 5)


async def test_an_idle_connection_does_not_delay_the_stop(services: Services) -> None:
    async with serving(services) as gateway, httpx.AsyncClient() as client:
        server, running, url = gateway.server, gateway.running, gateway.url
        await client.get(f"{url}/health/live")
        started = time.monotonic()
        server.handle_signal(signal.SIGTERM)
        await running
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("impatience", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_announcement(
    services: Services, impatience: signal.Signals
) -> None:
    async with serving(services, drain_announce_seconds=ANNOUNCE_SECONDS) as gateway:
        server, running = gateway.server, gateway.running
        server.handle_signal(signal.SIGTERM)
        server.handle_signal(impatience)
        await asyncio.wait_for(running, 5)


async def test_ctrl_c_does_not_announce(services: Services) -> None:
    async with serving(services, drain_announce_seconds=ANNOUNCE_SECONDS) as gateway:
        server, running = gateway.server, gateway.running
        server.handle_signal(signal.SIGINT)
        await asyncio.wait_for(running, 5)


async def test_the_program_and_its_workers_serve_metrics_and_drain_at_sigterm(
    services: Services,
) -> None:
    address, metrics_address, admin_address = (free_address() for _ in range(3))
    async with program(
        addresses_of(services),
        listen=address,
        metrics_listen=metrics_address,
        admin_listen=admin_address,
        workers=2,
        drain_announce_seconds=ANNOUNCE_SECONDS,
    ) as gateway:
        assert gateway.stdout is not None
        begun = b""
        while begun.count(b"identity_open") < 2:  # each worker logs it when it begins to serve
            begun += await asyncio.wait_for(gateway.stdout.readline(), 30)
        load = Load(f"http://{address}", services.token())
        await load.is_under_way()
        async with httpx.AsyncClient() as client:
            metrics = (await client.get(f"http://{metrics_address}/metrics")).text
            # One of the workers serves the admin API, and none at the public address.
            for _ in range(10):
                assert (await client.get(f"http://{admin_address}/admin/rooms")).status_code == 401
                assert (await client.get(f"http://{address}/admin/rooms")).status_code == 404
        assert 'http_requests_total{route="/queues/order",status="200"}' in metrics
        assert "\nopen_files " in metrics
        gateway.send_signal(signal.SIGTERM)
        await load.succeeds()
        gateway.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(gateway.communicate(), 30)
        assert gateway.returncode == 0, output.decode()
        assert b"Traceback" not in output, output.decode()
        assert begun.count(b"open_files_limit") == 2


async def test_workers_do_not_outlive_a_killed_parent(services: Services) -> None:
    """They would hold the address."""
    address = free_address()
    async with program(
        addresses_of(services), listen=address, metrics_listen=free_address(), workers=2
    ) as gateway:
        gateway.kill()
        await asyncio.wait_for(gateway.communicate(), 10)  # the workers write to the same pipe
        with pytest.raises(ConnectionRefusedError):
            await to_thread(connect, int(address.rpartition(":")[2]))

"""Replaces the programs, one kind at a time, between the two steps of the migration. May be
interrupted anywhere, and repeated."""

from __future__ import annotations

from harness import stopping
from harness.containers.engine import Container, Engine
from harness.containers.migration import contract
from harness.containers.settings import PROGRAMS, Settings
from harness.errors import UserError


def roll(engine: Engine, settings: Settings) -> None:
    """Replaces every program. The image must be built, and MariaDB must run.

    Raises UserError if a new version does not become healthy: its containers are removed then, and
    the old ones stay. For a moment there are up to twice as many of a kind, with memory and cores
    beyond the cap.
    """
    for left in engine.containers(one_off=True):
        # A running migration goes on to its end; the next one waits for it.
        if left.service != "migrate" or not left.running:
            engine.retire(left)
    engine.run_once("migrate", failure="the migration failed, and nothing was replaced.")
    for service in PROGRAMS:
        print(f"Replacing {service}", flush=True)
        old = _running(engine, service)
        if service == "gateway":
            _replace_gateways(engine, settings, old)
        else:
            _add(engine, service, settings.scale)
            for each in old:
                engine.retire(each)
    contract(engine, repeat="make roll")


def _replace_gateways(engine: Engine, settings: Settings, old: list[Container]) -> None:
    """A port belongs to one gateway, so an old one must stop before the new one starts. A new one
    is therefore tried first in a container without a port."""
    _try_out(engine, "gateway")
    surplus = len(old) - settings.scale
    if surplus < 0:
        _add(engine, "gateway", -surplus)
    # Those whose port is not needed any more stop first.
    old.sort(key=lambda each: any(port in settings.ports for port in each.ports))
    for position, each in enumerate(old):
        engine.retire(each)
        if position >= surplus:
            _add(engine, "gateway", 1)


def _running(engine: Engine, service: str) -> list[Container]:
    """The running containers, of any version. Removes the others, which Compose would start."""
    running = []
    for each in engine.containers(service):
        if each.running:
            running.append(each)
        else:
            engine.retire(each)
    return running


def _add(engine: Engine, service: str, count: int) -> None:
    """Adds `count` new containers, or none if not all of them become healthy."""
    before = {each.id for each in engine.containers(service)}

    def new() -> list[Container]:
        return [each for each in engine.containers(service) if each.id not in before]

    try:
        engine.compose(
            *("up", "--detach", "--no-deps", "--no-recreate"),
            *("--scale", f"{service}={len(before) + count}", service),
            failure=f"a new {service} did not start",
        )
        if len(new()) != count:
            raise UserError(f"not {count} but {len(new())} new ones of {service} started")
        engine.wait_for_new(new())
    except UserError as error:
        for each in new():
            engine.retire(each)
        raise _rolled_back(error) from error


def _try_out(engine: Engine, service: str) -> None:
    """Starts one that callers do not find, waits until it is healthy, and removes it."""
    try:
        engine.compose(
            *("run", "--detach", "--no-deps", service), failure=f"a new {service} did not start"
        )
        engine.wait_for_new(engine.containers(service, one_off=True))
    except UserError as error:
        raise _rolled_back(error) from error
    finally:
        with stopping.cleaning_up():
            for each in engine.containers(service, one_off=True):
                engine.retire(each)


def _rolled_back(error: UserError) -> UserError:
    return UserError(f"{error}; it was removed, and the old ones stay.")

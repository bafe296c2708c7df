"""Replaces the programs, one kind at a time. May be interrupted anywhere, and run again."""

from __future__ import annotations

from harness.containers.engine import Container, Engine
from harness.containers.settings import PROGRAMS, Settings
from harness.errors import UserError


def roll(engine: Engine, settings: Settings) -> None:
    """With an image that is built, and MariaDB running. Raises UserError if a new version does
    not become healthy: its containers are gone then, and those of the old one go on.

    Up to twice as many of a kind for a moment: memory and cores beyond the cap.
    """
    for left in engine.containers(one_off=True):
        # A migration is better left to its end; the next one waits for it.
        if left.service != "migrate" or not left.running:
            engine.retire(left)
    engine.run_once("migrate", otherwise="the migration failed, and nothing was replaced.")
    for service in PROGRAMS:
        print(f"Replacing {service}", flush=True)
        old = _standing(engine, service)
        if service == "gateway":
            _replace_gateways(engine, settings, old)
        else:
            _add(engine, service, settings.scale)
            for each in old:
                engine.retire(each)


def _replace_gateways(engine: Engine, settings: Settings, old: list[Container]) -> None:
    """Each has its port to itself, so an old one goes before the new one comes. That the new one
    will serve is therefore tried first, in a container that has no port."""
    _try_out(engine, "gateway")
    surplus = len(old) - settings.scale
    if surplus < 0:
        _add(engine, "gateway", -surplus)
    # Whoever has a port that no new one gets goes first.
    old.sort(key=lambda each: any(port in settings.ports for port in each.ports))
    for position, each in enumerate(old):
        engine.retire(each)
        if position >= surplus:
            _add(engine, "gateway", 1)


def _standing(engine: Engine, service: str) -> list[Container]:
    """Those that run, from whatever version. Those that do not are removed, for Compose would
    count them, or start them."""
    standing = []
    for each in engine.containers(service):
        if each.running:
            standing.append(each)
        else:
            engine.retire(each)
    return standing


def _add(engine: Engine, service: str, count: int) -> None:
    """So many new ones beside those that there are; none if not all become healthy."""
    before = {each.id for each in engine.containers(service)}

    def new() -> list[Container]:
        return [each for each in engine.containers(service) if each.id not in before]

    try:
        engine.compose(
            *("up", "--detach", "--no-deps", "--no-recreate"),
            *("--scale", f"{service}={len(before) + count}", service),
            otherwise=f"a new {service} did not start",
        )
        if len(new()) != count:
            raise UserError(f"not {count} but {len(new())} new ones of {service} started")
        engine.wait_for_new(new())
    except UserError as error:
        for each in new():
            engine.retire(each)
        raise _went_back(error) from error


def _try_out(engine: Engine, service: str) -> None:
    """One that callers do not find, until it is healthy."""
    try:
        engine.compose(
            *("run", "--detach", "--no-deps", service), otherwise=f"a new {service} did not start"
        )
        engine.wait_for_new(engine.containers(service, one_off=True))
    except UserError as error:
        raise _went_back(error) from error
    finally:
        for each in engine.containers(service, one_off=True):
            engine.retire(each)


def _went_back(error: UserError) -> UserError:
    return UserError(f"{error}; it was removed, and the old ones go on.")

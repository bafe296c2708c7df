"""The bounded memory."""

from servicekit.ttl_cache import TtlCache


def test_an_entry_is_gone_after_its_time() -> None:
    now = 0.0
    cache: TtlCache[str, int] = TtlCache(max_size=10, ttl=60, clock=lambda: now)
    cache.put("a", 1)
    now = 59.9
    assert cache.get("a") == 1
    now = 60.0
    assert cache.get("a") is None


def test_the_entry_unused_for_longest_makes_room() -> None:
    cache: TtlCache[str, int] = TtlCache(max_size=2, ttl=60)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_a_second_put_replaces_the_first() -> None:
    cache: TtlCache[str, int] = TtlCache(max_size=2, ttl=60)
    cache.put("a", 1)
    cache.put("a", 2)
    assert cache.get("a") == 2

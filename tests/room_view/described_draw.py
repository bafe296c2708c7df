"""The draw once more, written from docs/draw.md alone: what a stranger would write to check one."""

import hashlib
import hmac


def order(seed: bytes, public_value: str, numbers: list[int]) -> list[int]:
    """Returns the place numbers in the order of their ranks."""
    key = hashlib.sha256(seed + public_value.encode("utf-8")).digest()
    n = len(numbers)
    a = 2
    while a * a < n:
        a += 2
    known: dict[tuple[int, int], int] = {}

    def f(i: int, v: int) -> int:
        if (i, v) not in known:
            message = i.to_bytes(1, "big") + v.to_bytes(8, "big")
            digest = hmac.new(key, message, hashlib.sha256).digest()
            known[i, v] = int.from_bytes(digest[:8], "big") % a
        return known[i, v]

    ranked: dict[int, int] = {}
    for index, number in enumerate(sorted(numbers)):
        x = index
        while True:
            left, right = x // a, x % a
            for i in range(8 if a >= 64 else 32):
                if i % 2 == 0:
                    left = (left + f(i, right)) % a
                else:
                    right = (right + f(i, left)) % a
            x = left * a + right
            if x < n:
                break
        assert x not in ranked, "two places have one rank"
        ranked[x] = number
    return [ranked[rank] for rank in range(n)]


def list_hash(numbers: list[int]) -> str:
    """Returns the hash of the list, hexadecimal."""
    joined = b"".join(number.to_bytes(8, "big") for number in sorted(numbers))
    return hashlib.sha256(joined).hexdigest()

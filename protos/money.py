"""Amounts of money as the API and the messages write them."""

from decimal import Decimal
from functools import lru_cache

from iso4217 import Currency

DEFAULT_CURRENCY = "KRW"
"""The currency of prices that name none: those of the seeder, and of the version before."""

MAX_PRICE = Decimal("999999999999.999")
"""The greatest amount that the tables store, DECIMAL(15, 3)."""


def is_currency(code: str) -> bool:
    """Returns whether this is the ISO 4217 code of a currency with which people pay: gold (XAU) and
    the like have no decimal places, and are none."""
    return _exponent(code) is not None


def decimal_places(code: str) -> int:
    """Returns how many decimal places amounts of this currency have: 0 for KRW, 2 for EUR, 3 for
    KWD. Raises ValueError if it is no currency."""
    places = _exponent(code)
    if places is None:
        raise ValueError(f"{code!r} is no currency")
    return places


def to_text(amount: Decimal, currency: str) -> str:
    """Returns the amount with two decimal places, or three if the currency has three."""
    return f"{amount:.{max(2, decimal_places(currency or DEFAULT_CURRENCY))}f}"


# Bounded, because documents and payment providers name any text as a currency.
@lru_cache(maxsize=512)
def _exponent(code: str) -> int | None:
    try:
        places = Currency(code).exponent
    except ValueError:
        return None
    # The tables store three.
    return places if places is None or places <= 3 else None

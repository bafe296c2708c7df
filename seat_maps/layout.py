"""What the seats of a schedule have in common with those of other schedules in the same hall."""

from array import array
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class PriceCategory:
    """Seats of one price under one name. A name may have several prices."""

    name: str
    price: Decimal


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SeatLayout:
    """The columns of a layout. Those after the price categories have one element for each seat,
    in seat order, unless said otherwise.

    The digest is that of the content: layouts with the same digest are equal. Takes about 80 bytes
    for each seat.
    """

    digest: bytes
    # The best row first. Rows of two sections may have the same name.
    row_names: tuple[str, ...] = field(compare=False)
    row_sections: tuple[str, ...] = field(compare=False)
    price_categories: tuple[PriceCategory, ...] = field(compare=False)

    seat_nums: tuple[str, ...] = field(compare=False)
    # Indexes into row_names and row_sections.
    rows: "array[int]" = field(compare=False)
    # Seats of one row whose places follow one another are adjacent.
    places: "array[int]" = field(compare=False)
    # Indexes into price_categories.
    categories: "array[int]" = field(compare=False)
    accessible: bytes = field(compare=False)
    # Whether a seat is for the companion of somebody in an accessible seat.
    companion: bytes = field(compare=False)
    # For each row: whether its places are assigned in any order, because its section has no seats.
    general_admission: bytes = field(compare=False)
    # Coordinates in the hall; both empty if they are unknown.
    x: "array[int]" = field(compare=False)
    y: "array[int]" = field(compare=False)

    def __len__(self) -> int:
        """Returns the number of seats."""
        return len(self.seat_nums)

    def price(self, index: int) -> Decimal:
        """Returns the price of a seat."""
        return self.price_categories[self.categories[index]].price

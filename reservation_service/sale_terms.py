"""On which terms the seats of a schedule are sold, as concert_service describes them."""

from dataclasses import dataclass

from protos.money import DEFAULT_CURRENCY
from reservation_service.domain import Admission
from reservation_service.errors import SalesClosed, WrongRoom


@dataclass(frozen=True, slots=True)
class SaleTerms:
    """The waiting room that leads to the concert ("" for any: concert_service of the version before
    knew none), when seats may be held (Unix time in milliseconds, 0 for no such limit), and the ISO
    4217 code of the prices."""

    room: str = ""
    sales_from_ms: int = 0
    sales_until_ms: int = 0
    currency: str = DEFAULT_CURRENCY

    def check(self, admission: Admission | None, now_ms: float) -> None:
        """Raises WrongRoom for an admission of another room, and SalesClosed before the sale has
        begun and after its end. No admission is of any room: whoever calls without one has none to
        check."""
        if admission is not None and self.room and admission.room != self.room:
            raise WrongRoom(self.room)
        if now_ms < self.sales_from_ms:
            raise SalesClosed("The sale of this date has not begun.")
        if self.sales_until_ms and now_ms >= self.sales_until_ms:
            raise SalesClosed("The sale of this date is over.")

"""Requests to pay, which travel to payment_service in groups."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protos.frontrow.payment.v1 import payment_pb2
from protos.limits import MAX_ITEMS
from servicekit.batching import Batcher
from servicekit.client import call, open_responses
from servicekit.errors import Unavailable
from servicekit.rpc_errors import from_item_error

if TYPE_CHECKING:
    from protos.frontrow.payment.v1.payment_pb2_grpc import PaymentServiceAsyncStub

# A call lasts as long as its slowest payment, and waits for none that is under way.
_IN_FLIGHT = 20_000

Answer = asyncio.Future[payment_pb2.PayResponse]


class Payments:
    """Sends a request that finds nobody at once, and those that follow within the pause as one
    call. Each gets its answer once its own payment has an outcome.

    gRPC may repeat a call while payment_service is unavailable: a payment charges only once.
    """

    def __init__(
        self, payment: "PaymentServiceAsyncStub", budget: float, longest_pause: float
    ) -> None:
        """`budget`: the seconds that one request may take. See Batcher for the pause."""
        self._payment = payment
        self._budget = budget
        self._calls: set[asyncio.Task[None]] = set()
        self._requests = Batcher[payment_pb2.PayRequest, payment_pb2.PayResponse | Answer](
            self._send,
            budget=budget,
            max_batch=MAX_ITEMS,
            longest_pause=longest_pause,
            max_in_flight=_IN_FLIGHT,
            direct=True,
        )

    async def pay(self, request: payment_pb2.PayRequest) -> payment_pb2.PayResponse:
        """Pays a reservation; see `PaymentService.Pay`.

        Raises RemoteError with the code of the payment, or of the call if it failed as a whole;
        Unavailable if nothing was sent.
        """
        answer = await self._requests.submit(request)
        return await answer if isinstance(answer, asyncio.Future) else answer

    async def _send(
        self, requests: Sequence[payment_pb2.PayRequest]
    ) -> Sequence[payment_pb2.PayResponse | Answer]:
        if len(requests) == 1:  # in the task of its caller
            return [await call(self._payment.Pay, requests[0], budget=self._budget)]
        loop = asyncio.get_running_loop()
        answers: list[Answer] = [loop.create_future() for _ in requests]
        # With the deadline of the first of them, which the Batcher has set.
        task = loop.create_task(self._call(requests, answers))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return answers

    async def _call(
        self, requests: Sequence[payment_pb2.PayRequest], answers: Sequence[Answer]
    ) -> None:
        error: Exception = Unavailable("The service has sent no outcome of this payment.")
        try:
            async with open_responses(
                self._payment.PayReservations,
                payment_pb2.PayReservationsRequest(items=requests),
                budget=self._budget,
            ) as responses:
                async for response in responses:
                    for result in response.results:
                        _settle(answers[result.item], result)
        except Exception as failure:
            error = failure
        finally:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # no complaint if its caller has gone


def _settle(answer: Answer, result: payment_pb2.PayReservationsResponse.Result) -> None:
    if answer.done():  # the caller was cancelled
        return
    if result.HasField("payment"):
        answer.set_result(result.payment)
    else:
        answer.set_exception(from_item_error(result.error))

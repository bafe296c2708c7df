"""Requests to pay, which travel to payment_service in groups."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from protos.frontrow.payment.v1 import payment_pb2
from protos.limits import MAX_ITEMS
from servicekit.batching import Batcher
from servicekit.client import call, open_responses
from servicekit.errors import Unavailable
from servicekit.rpc_errors import RemoteError, from_item_error

if TYPE_CHECKING:
    from protos.frontrow.payment.v1.payment_pb2_grpc import PaymentServiceAsyncStub

# A payment takes four commits behind the gateway, each shared by those who come together: with more
# calls under way, a crowd would come in smaller groups. A lone payment takes some 15 ms, so that
# three are rarely under way at 150 per second.
_IN_FLIGHT = 3
# A call counts as under way until its first outcome, but no longer than this, in seconds: payments
# at a slow provider hold up no others.
_PATIENCE_SECONDS = 0.25

Answer = asyncio.Future[payment_pb2.PayResponse]


class Payments:
    """Sends a request that finds few under way at once; those that come while several are travel as
    one call. Each gets its answer once its own payment has an outcome.

    gRPC may repeat a call while payment_service is unavailable: a payment charges only once.
    """

    def __init__(self, payment: "PaymentServiceAsyncStub", budget: float) -> None:
        """`budget`: the seconds that one request may take."""
        self._payment = payment
        self._budget = budget
        self._calls: set[asyncio.Task[None]] = set()
        self._requests = Batcher[payment_pb2.PayRequest, Answer](
            self._send,
            budget=budget,
            max_batch=MAX_ITEMS,
            max_in_flight=_IN_FLIGHT,
            direct=True,
        )

    async def pay(self, request: payment_pb2.PayRequest) -> payment_pb2.PayResponse:
        """Pays a reservation; see `PaymentService.Pay`.

        Raises RemoteError with the code of the payment, or of the call if it failed as a whole;
        Unavailable if nothing was sent.
        """
        return await (await self._requests.submit(request))

    async def _send(self, requests: Sequence[payment_pb2.PayRequest]) -> Sequence[Answer]:
        """Returns once the first outcome is known, or after a while. The call goes on, also if its
        caller has left."""
        loop = asyncio.get_running_loop()
        answers: list[Answer] = [loop.create_future() for _ in requests]
        first: asyncio.Future[None] = loop.create_future()
        # With the deadline of the first of them, which the Batcher has set.
        task = loop.create_task(self._call(requests, answers, first))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        await asyncio.wait((first,), timeout=_PATIENCE_SECONDS)
        return answers

    async def _call(
        self,
        requests: Sequence[payment_pb2.PayRequest],
        answers: Sequence[Answer],
        first: "asyncio.Future[None]",
    ) -> None:
        error: Exception = Unavailable("The service has sent no outcome of this payment.")
        try:
            if len(requests) == 1:
                await self._pay_alone(requests[0], answers[0])
            else:
                await self._pay_together(requests, answers, first)
        except Exception as failure:
            error = failure
        finally:
            if not first.done():
                first.set_result(None)
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # no complaint if its caller has gone

    async def _pay_alone(self, request: payment_pb2.PayRequest, answer: Answer) -> None:
        paid = await call(self._payment.Pay, request, budget=self._budget)
        if not answer.done():  # the caller was cancelled
            answer.set_result(paid)

    async def _pay_together(
        self,
        requests: Sequence[payment_pb2.PayRequest],
        answers: Sequence[Answer],
        first: "asyncio.Future[None]",
    ) -> None:
        try:
            async with open_responses(
                self._payment.PayReservations,
                payment_pb2.PayReservationsRequest(items=requests),
                budget=self._budget,
                expected=grpc.StatusCode.UNIMPLEMENTED,
            ) as responses:
                async for response in responses:
                    for result in response.results:
                        _settle(answers[result.item], result)
                    if not first.done():
                        first.set_result(None)
        except RemoteError as error:
            if error.status is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            # payment_service of the version before, during an upgrade or after it was taken back.
            await asyncio.gather(
                *(
                    self._call([request], [answer], first)
                    for request, answer in zip(requests, answers, strict=True)
                )
            )


def _settle(answer: Answer, result: payment_pb2.PayReservationsResponse.Result) -> None:
    if answer.done():  # the caller was cancelled
        return
    if result.HasField("payment"):
        answer.set_result(result.payment)
    else:
        answer.set_exception(from_item_error(result.error))
        answer.exception()  # no complaint if its caller has gone

"""What a server gives every call: request id, deadline, decoding, errors and metrics."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from prometheus_client import Counter, Histogram

from servicekit import call_context, logs
from servicekit.errors import InvalidRequest, ServiceError, Unavailable
from servicekit.rpc_errors import to_status

log = logs.get(__name__)

Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Any, Any]
"""The second argument of every servicer method."""

CALLS = Counter("grpc_calls", "Calls served.", ["method", "code"])
CALL_SECONDS = Histogram(
    "grpc_call_seconds",
    "How long calls took; without streams.",
    ["method"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SLOW_READERS = Counter(
    "grpc_slow_readers", "Streams that ended because their callers did not read.", ["method"]
)

STREAM_WRITE_SECONDS = 10.0
"""A stream ends if the caller accepts no message for this long. gRPC buffers about 4 MB for a
caller that does not read; only then a write waits."""

# A status waits behind the messages that the caller does not read.
_ABORT_SECONDS = 0.1


class SlowReader(Unavailable):
    """The caller of a stream does not read what was sent to it."""


class _UndecodableRequest(InvalidRequest):
    def __init__(self) -> None:
        super().__init__("The request is not a message of this method.")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Gives every call its request id, and records its error and metrics.

    A unary call gets the deadline of its caller, or the default. A stream gets a deadline only if
    its caller set one. Its method may be an async generator or write to its context itself.
    """

    def __init__(self, default_deadline: float) -> None:
        self._default_deadline = default_deadline
        # Method → what serves its calls, made at the first one: making it costs as much as a call.
        self._served: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        served = self._served.get(details.method)
        if served is None:
            handler = await continuation(details)
            if handler is None:
                return None
            served = self._serve(details.method, handler)
            self._served[details.method] = served
        return served

    def _serve(self, method: str, handler: Any) -> Any:
        decoded, encode = _decoding(handler), handler.response_serializer
        seconds = CALL_SECONDS.labels(method)
        succeeded = CALLS.labels(method, "OK")

        async def serve_call(request: bytes, context: Context) -> Any:
            async def work() -> Any:
                response = await handler.unary_unary(decoded(request), context)
                return (encode or bytes)(response)

            limit = context.time_remaining()
            limit = self._default_deadline if limit is None else limit
            started = time.perf_counter()
            try:
                return await _answer(method, succeeded, context, limit, work)
            finally:
                seconds.observe(time.perf_counter() - started)

        async def serve_responses(request: bytes, context: Context) -> None:
            async def work() -> None:
                await _write(handler.unary_stream(decoded(request), context), context)

            await _answer(method, succeeded, context, context.time_remaining(), work)

        async def serve_stream(_: AsyncIterator[bytes], context: Context) -> None:
            async def work() -> None:
                await _write(handler.stream_stream(_Requests(context, decoded), context), context)

            await _answer(method, succeeded, context, context.time_remaining(), work)

        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(serve_call)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(serve_responses, response_serializer=encode)
        return grpc.stream_stream_rpc_method_handler(serve_stream, response_serializer=encode)


async def _answer(
    method: str,
    succeeded: Counter,
    context: Context,
    limit: float | None,
    work: Callable[[], Awaitable[Result]],
) -> Result:
    """Returns the result of `work`, which ends after `limit` seconds, if there is a limit. An error
    becomes the status of the call. `succeeded` counts the calls of the method with code OK."""
    request_id = _request_id(context)
    call_context.request_id.set(
        # A longer one could exceed the limit of the headers of the calls behind this one.
        request_id
        if 0 < len(request_id) <= call_context.MAX_REQUEST_ID_LENGTH
        else call_context.new_request_id()
    )
    if limit is not None:
        call_context.set_deadline(limit)
    code = "OK"
    try:
        async with asyncio.timeout(limit):
            return await work()
    except SlowReader as error:
        code = error.code
        SLOW_READERS.labels(method).inc()
        # InternalError: the caller has ended the call meanwhile.
        with contextlib.suppress(TimeoutError, grpc.aio.InternalError):
            async with asyncio.timeout(_ABORT_SECONDS):
                await context.abort_with_status(to_status(error))
        raise
    except ServiceError as error:
        code = error.code
        await context.abort_with_status(to_status(error))
        raise
    except TimeoutError:
        code = "TIMEOUT"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time")
        raise
    except asyncio.CancelledError:
        # If it escapes the handler, clients may hang (grpc#29248).
        code = "CANCELLED"
        await context.abort(grpc.StatusCode.CANCELLED, "the call was cancelled")
        raise
    except grpc.aio.AbortError:
        # gRPC's own health service: it does not know the service that was named.
        code = "NOT_FOUND"
        raise
    except Exception:
        code = "INTERNAL"
        log.exception("call_failed", method=method)
        await context.abort_with_status(to_status(ServiceError("internal error")))
        raise
    finally:
        (succeeded if code == "OK" else CALLS.labels(method, code)).inc()


def _request_id(context: Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == call_context.REQUEST_ID_HEADER:
            return str(value)
    return ""


class _Requests:
    """The requests of a stream, decoded. Unlike gRPC's own iterator it is no async generator,
    which would have to be closed when a stream ends early."""

    def __init__(self, context: Context, decoded: Callable[[bytes], Any]) -> None:
        self._context = context
        self._decoded = decoded

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> Any:
        request = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._decoded(request)


async def _write(responses: AsyncIterable[Any] | Awaitable[None], context: Context) -> None:
    """Sends the responses of a stream, or awaits the method that sends them itself. Raises
    SlowReader."""
    if not isinstance(responses, AsyncIterable):
        await responses
        return
    async with contextlib.aclosing(aiter(responses)) as stream:  # type: ignore[type-var]
        async for response in stream:
            try:
                async with asyncio.timeout(STREAM_WRITE_SECONDS):
                    await context.write(response)
            except TimeoutError:
                raise SlowReader("The caller reads too slowly.") from None


def _decoding(handler: "grpc.RpcMethodHandler[Any, Any]") -> Callable[[bytes], Any]:
    """Returns what makes a request of its bytes. Raises _UndecodableRequest.

    For use in a handler: gRPC would tell the caller the class of an exception of its own decoding.
    """
    decode = handler.request_deserializer or bytes

    def decoded(request: bytes) -> Any:
        try:
            return decode(request)
        except Exception:
            raise _UndecodableRequest from None

    return decoded

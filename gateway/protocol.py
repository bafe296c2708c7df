"""What uvicorn answers by itself, as a problem like every other error."""

from os import urandom

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import FieldError, InvalidFields, problem
from servicekit import call_context


class ProblemProtocol(HttpToolsProtocol):
    """HTTP/1.1; a message that is not HTTP (bad bytes in the path, a method that does not exist)
    gets INVALID_REQUEST, and its connection ends."""

    def send_400_response(self, msg: str) -> None:
        call_context.request_id.set(urandom(16).hex())
        reply = problem(InvalidFields([FieldError("request", "is not valid HTTP/1.1")]))
        reply.headers[call_context.REQUEST_ID_HEADER] = call_context.request_id.get()
        head = [f"HTTP/1.1 {reply.status_code} \r\n".encode(), b"connection: close\r\n"]
        head += [name + b": " + value + b"\r\n" for name, value in reply.raw_headers]
        self.transport.write(b"".join([*head, b"\r\n", bytes(reply.body)]))
        self.transport.close()

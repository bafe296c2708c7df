"""ASGI middleware, one job each, from the outside in: metrics, request_guard, drain, cors (if
there are origins), errors, source_limit (if there is one). gateway/immediate.py calls the same
checks for requests that it answers before the middleware.

Pure ASGI, because Starlette's BaseHTTPMiddleware costs two thirds of the throughput. The server
sends HTTP scopes only (see gateway/server.py), so no middleware checks the scope's type.
"""

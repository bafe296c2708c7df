"""The wiring of the HTTP application: routes inside middleware, and a shorter way to some."""

from starlette.types import ASGIApp

from gateway.access_guard import AccessGuard
from gateway.challenges.entry import open_challenge
from gateway.clients import Clients
from gateway.identity import open_identity
from gateway.immediate import ImmediateAnswers
from gateway.middleware.cors import CorsMiddleware
from gateway.middleware.drain import DrainMiddleware
from gateway.middleware.errors import ErrorMiddleware
from gateway.middleware.metrics import MetricsMiddleware
from gateway.middleware.request_guard import RequestGuard
from gateway.middleware.source_limit import SourceLimit, SourceLimitMiddleware
from gateway.open_files import OpenFiles
from gateway.pages import documentation_pages
from gateway.rate_limit import RateLimit
from gateway.routes.concerts import ConcertRoutes
from gateway.routes.draws import DrawRoutes
from gateway.routes.health import HealthRoutes
from gateway.routes.queue import QueueRoutes
from gateway.routes.reservations import ReservationRoutes
from gateway.routing import Router
from gateway.server import Drain
from gateway.settings import Settings
from gateway.sources import Sources
from gateway.tokens import TokenVerifier


def create_app(
    settings: Settings, clients: Clients, drain: Drain, open_files: OpenFiles
) -> ImmediateAnswers:
    """Returns the application. Call it inside the event loop that will serve it."""
    keys = {key_id: secret.get_secret_value() for key_id, secret in settings.token_keys.items()}
    sources = Sources(settings.trusted_proxies)
    guard = AccessGuard(
        TokenVerifier(keys, settings.token_max_age_seconds),
        RateLimit(settings.requests_per_second, "client"),
        clients.rooms,
    )
    challenge = open_challenge(settings, clients, guard, sources)
    routes = [  # tried in this order: the most frequent first
        *QueueRoutes(
            clients, guard, sources, open_identity(settings), challenge, settings
        ).routes(),
        *ConcertRoutes(clients, guard, settings).routes(),
        *ReservationRoutes(clients, guard, settings).routes(),
        *DrawRoutes(clients.draws).routes(),
        *HealthRoutes(clients, drain, open_files, settings.readiness_ttl_seconds).routes(),
    ]
    pages = documentation_pages(routes) if settings.documentation else {}
    router = Router(routes, pages)
    app: ASGIApp = router
    source_limit = cors = None
    if settings.requests_per_second_per_source:
        limit = RateLimit(settings.requests_per_second_per_source, "source")
        source_limit = SourceLimit(sources, limit)
        app = SourceLimitMiddleware(app, source_limit)
    app = ErrorMiddleware(app)
    if settings.cors_origins:
        app = cors = CorsMiddleware(app, settings.cors_origins)
    app = DrainMiddleware(app, drain)
    app = RequestGuard(app)
    app = MetricsMiddleware(app)
    return ImmediateAnswers(app, router, drain, source_limit, cors)

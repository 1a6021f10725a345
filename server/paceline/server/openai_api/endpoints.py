"""The paths of OpenAI's API, behind the same tokens as gRPC's methods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from paceline.v1 import generation_pb2 as pb

from .. import caller, listen
from ..bearer import Tokens
from ..calls import Calls
from ..errors import PacelineError, Unauthenticated
from ..rpc import GenerationService
from .answers import models_answer
from .completions import Completions
from .connection import Answered, refusals
from .faults import HttpFault, failure

HEALTH = "/health"  # probes and load balancers have no tokens


class Endpoints:
    """The ASGI application: who shows no good token gets nowhere but to health.

    Args:
        calls: counts what is being answered.
        tokens: None: everybody may.
        healthy: whether health says that this server serves.
        answered: told the status of each request that the service does not see.
        own_names_only: whether requests must call the server by a name of this machine's own.
    """

    def __init__(
        self,
        service: GenerationService,
        calls: Calls,
        tokens: Tokens | None,
        healthy: Callable[[], bool],
        answered: Answered,
        *,
        own_names_only: bool,
    ) -> None:
        self._service = service
        self._tokens = tokens
        self._healthy = healthy
        self._answered = answered
        self._own_names_only = own_names_only
        posts = {
            "/v1/completions": Completions(service, calls, answered, chat=False),
            "/v1/chat/completions": Completions(service, calls, answered, chat=True),
        }
        self._app = Starlette(
            routes=[
                Route(HEALTH, self._health),
                Route("/v1/models", self._models),
                *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
            ],
            exception_handlers={HTTPException: self._lost},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            with refusals(request, self._answered):
                self._admit(request)
        except PacelineError as exc:
            await failure(exc)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, request: Request) -> None:
        """Raises the same whether or not there is such a path: HttpFault, Unauthenticated."""
        if self._own_names_only and not listen.calls_loopback(request.headers.getlist("host")):
            raise HttpFault(421, "this server answers under the names of its own machine alone")
        if self._tokens is not None and request.scope["path"] != HEALTH:
            who = self._tokens.shown(request.headers.getlist("authorization"))
            if who is None:
                raise Unauthenticated("a bearer token is needed")
            caller.current.set(who)  # this task answers the request, too

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200 if self._healthy() else 503)

    async def _models(self, request: Request) -> Response:
        try:
            info = await self._service.GetModelInfo(pb.GetModelInfoRequest(), None)
        except PacelineError as exc:
            return failure(exc)
        return Response(models_answer(info), media_type="application/json")

    async def _lost(self, request: Request, exc: Exception) -> Response:
        """No such path, or not by this method."""
        assert isinstance(exc, HTTPException)
        fault = HttpFault(exc.status_code, exc.detail)
        with contextlib.suppress(HttpFault), refusals(request, self._answered):
            raise fault
        response = failure(fault)
        response.headers.update(exc.headers or {})
        return response

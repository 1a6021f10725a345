"""A small HTTP server on threads of its own, for what operators look at: metrics and the dashboard."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

from .listen import calls_loopback, is_loopback

logger = logging.getLogger(__name__)

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Page:
    """How one path is answered.

    Attributes:
        policy: what the page may load, beyond nothing: directives of a Content-Security-Policy.
        any_host: answered under whatever name this machine was found.
    """

    content_type: str
    content: Callable[[], bytes]
    policy: str = ""
    any_host: bool = False


class Web:
    """Serves pages until closed. Raises OSError if the address cannot be had.

    Args:
        posts: who answers a POST of a path, by the path.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, Page],
        posts: Mapping[str, Callable[[Handler], None]] | None = None,
    ) -> None:
        self._server = _Server(host, port, pages, posts or {})
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="paceline-web", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, Page],
        posts: Mapping[str, Callable[[Handler], None]],
    ) -> None:
        self.pages = pages
        self.posts = posts
        self.own_names_only = is_loopback(host)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, on a thread of its own."""

    timeout = 10  # a silent connection holds a thread no longer
    server: _Server

    def do_GET(self) -> None:
        page = self.server.pages.get(self._path)
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        if not page.any_host and not self._called_by_own_name:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        try:
            content = page.content()
        except Exception:
            logger.exception("page %r failed", self.path)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.begin(HTTPStatus.OK, page.content_type, len(content), page.policy)
        self.wfile.write(content)

    def do_POST(self) -> None:
        answer = self.server.posts.get(self._path)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not self._called_by_own_name:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        else:
            answer(self)

    def begin(
        self, status: HTTPStatus, content_type: str, length: int | None = None, policy: str = ""
    ) -> None:
        """Sends all that comes before the content; without a length that goes on until the connection ends."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "; ".join(filter(None, (_NOTHING, policy))))
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)

    @property
    def host(self) -> str:
        """What the caller calls us, with the port; empty where he does not say, or says it twice."""
        named = self.headers.get_all("Host", [])
        return str(named[0]) if len(named) == 1 else ""

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    @property
    def _called_by_own_name(self) -> bool:
        hosts = self.headers.get_all("Host", [])
        return not self.server.own_names_only or calls_loopback(hosts)

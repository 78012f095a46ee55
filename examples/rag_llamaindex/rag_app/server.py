"""A local web server for the page: one line of JSON for everything that happens to an answer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import instrument_tags
from llama_index_instrumentation.event_handlers import BaseEventHandler
from pydantic import PrivateAttr

from llama_index.llms.dgemma import DraftEvent
from rag_app.answers import Answers, sources_of

PAGE = Path(__file__).parent.parent / "page.html"
LONGEST = 8192
"""Bytes of a request."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
)

Tell = Callable[[dict[str, Any]], None]


class Drafts(BaseEventHandler):
    """Hands every draft to the request whose tag it bears."""

    _readers: dict[str, Tell] = PrivateAttr(default_factory=dict)

    @contextmanager
    def told_to(self, tell: Tell) -> Iterator[None]:
        """Give `tell` the drafts of whatever this thread asks of an LLM meanwhile."""
        request = uuid.uuid4().hex
        self._readers[request] = tell
        try:
            with instrument_tags({"request": request}):
                yield
        finally:
            del self._readers[request]

    def handle(self, event: Any, **kwargs: Any) -> None:
        tell = self._readers.get(event.tags.get("request", ""))
        if tell is not None and isinstance(event, DraftEvent):
            tell(
                {
                    "type": "draft",
                    "text": event.text,
                    "step": event.step,
                    "steps": event.max_steps,
                    "entropy": round(event.mean_entropy, 4),
                }
            )


class PageServer(ThreadingHTTPServer):
    """Serves the page and its answers on this machine only."""

    daemon_threads = True

    def __init__(self, answers: Answers, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), PageHandler)
        self.answers = answers
        self.drafts = Drafts()
        get_dispatcher().add_event_handler(self.drafts)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def server_close(self) -> None:
        handlers = get_dispatcher().event_handlers
        handlers[:] = [each for each in handlers if each is not self.drafts]  # equals are others'
        super().server_close()


class PageHandler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        if self._is_stranger():
            return
        if self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        page = PAGE.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self) -> None:
        if self._is_stranger():
            return
        question = self._question()
        if self.path != "/ask" or question is None:
            self.send_error(HTTPStatus.BAD_REQUEST, 'POST {"question": "..."} to /ask')
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        try:
            self._answer(question)
        except (BrokenPipeError, ConnectionResetError):  # the reader left, and the work stopped
            return
        except Exception as error:
            self._tell({"type": "error", "text": f"{type(error).__name__}: {error}"})
            raise

    def _answer(self, question: str) -> None:
        with self.server.drafts.told_to(self._tell):
            response: Any = self.server.answers.query_engine(streaming=True).query(question)
            sources = [source.plain() for source in sources_of(response.source_nodes)]
            self._tell({"type": "sources", "sources": sources})
            for piece in response.response_gen:
                self._tell({"type": "text", "text": piece})
        self._tell({"type": "done"})

    def _tell(self, told: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(told).encode() + b"\n")
        self.wfile.flush()

    def _question(self) -> str | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or not 0 < int(length) <= LONGEST:
            return None
        try:
            question = json.loads(self.rfile.read(int(length)))["question"]
        except (ValueError, KeyError, TypeError):
            return None
        return question.strip() or None if isinstance(question, str) else None

    def _is_stranger(self) -> bool:
        """Refuse pages of other sites that had their name point to this machine."""
        own = {f"{host}:{self.server.server_port}" for host in ("127.0.0.1", "localhost")}
        if self.headers.get("Host") in own:
            return False
        self.send_error(HTTPStatus.FORBIDDEN, "ask 127.0.0.1 by its own name")
        return True

    def log_message(self, format: str, *values: Any) -> None:
        """Keep the terminal quiet."""

"""The routes: OpenAI's, and those of an operator. The only module that knows FastAPI."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import openjanus
from openjanus.rules import near
from openjanus.serve.admission import Admission
from openjanus.serve.bodies import B, check_is_json, parse_body
from openjanus.serve.chat import ChatWork, ChatWriter, ReplyPiece
from openjanus.serve.errors import ApiError, failed, refused
from openjanus.serve.fetch import Fetcher
from openjanus.serve.gate import Application, Gate, Visit
from openjanus.serve.images import (
    DrawnState,
    ImagesWork,
    ImagesWriter,
    max_partial_images,
)
from openjanus.serve.metrics import Metrics
from openjanus.serve.options import ServeOptions
from openjanus.serve.page import PageFile, page_files
from openjanus.serve.room import Job, Room, T, Work
from openjanus.serve.schema import (
    ChatAnswer,
    ChatBody,
    ChatChunk,
    CompletedImage,
    DrawingFacts,
    ErrorBody,
    ImagesAnswer,
    ImagesBody,
    ModelCard,
    ModelList,
    PartialImage,
    Status,
)
from openjanus.serve.store import PictureStore

ERRORS = {
    400: "The request must be changed; the message says how",
    401: "No valid key",
    403: "This name of the server is not its own",
    404: "No such model, picture or path",
    405: "No such method",
    408: "The body came too slowly",
    413: "The body is too large",
    429: "This key has too many requests here: see Retry-After",
    500: "The server failed; its log has the reason",
    503: "The server is full or stopping, or out of memory: see Retry-After",
    504: "The answer took too long",
}
SMALL_BODY_BYTES = 16 * 1024
"""Up to here a body is parsed at once, and does not wait behind larger ones."""
_COMMON = (401, 403, 405, 500)
_WORK = (400, 401, 403, 404, 405, 408, 413, 429, 500, 503, 504)
_EVENT = {
    "type": "object",
    "description": "Of each event; data is JSON, or at the end of a chat [DONE].",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_SCHEMAS = "#/components/schemas/{model}"
_EVENTS = {"text/event-stream": {"schema": _EVENT}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": ERRORS[status]} for status in statuses}


class Server:
    """What the routes share.

    Args:
        room: Entered.
        options: How it is run.
        admission: Who is inside.
    """

    def __init__(self, room: Room, options: ServeOptions, admission: Admission) -> None:
        self.room = room
        self.options = options
        self.admission = admission
        self.created = int(time.time())
        self.store = PictureStore(options.url_store_bytes, options.url_lifetime_s, time.monotonic)
        self.fetch = None
        if options.fetch_images:
            self.fetch = Fetcher(
                max_bytes=options.max_image_bytes, timeout_s=options.fetch_timeout_s
            )

    def check_model(self, name: str | None) -> str:
        """The name that an answer carries.

        Raises:
            ApiError: Another model is asked for.
        """
        names = self.options.all_names
        if name is None:
            return names[0]
        if name not in names:
            raise ApiError(
                404,
                f"no model {name!r} here; {near(name, list(names))}",
                code="model_not_found",
                param="model",
            )
        return name

    async def read(self, kind: type[B], request: Request) -> B:
        """The body of a request.

        Args:
            kind: What it must be.
            request: Whose body is whole.

        Raises:
            ApiError: It is no JSON, or breaks a rule.
        """
        check_is_json(request.headers.get("content-type", ""))
        visit: Visit = request.state.visit
        body, visit.body = visit.body, b""  # 16 MiB need not be kept, nor copied once more
        if len(body) <= SMALL_BODY_BYTES:
            return parse_body(kind, body)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.room.reading, parse_body, kind, body)

    def begin(self, visit: Visit, work: Work[T], n: int | None, engine: str) -> Job[T]:
        """Work on n replies or pictures of an engine, each with a place of its own.

        Raises:
            ApiError: There are not so many places.
        """
        if n is not None and n > 1:
            self.admission.widen(visit.name, n - 1)
            visit.places = n
        job = self.room.begin(work, self.options.deadline_s, engine)
        visit.ended = job.ended
        return job

    def cards(self) -> list[ModelCard]:
        """A card for each name."""
        config = self.room.janus.config
        drawing = DrawingFacts(
            size=f"{config.gen_image_size}x{config.gen_image_size}",
            max_partial_images=max_partial_images(config),
            guidance_scale=config.drawing.guidance_scale,
            temperature=config.drawing.temperature,
        )
        return [
            ModelCard(id=name, created=self.created, drawing=drawing)
            for name in self.options.all_names
        ]


def build_app(room: Room, options: ServeOptions, admission: Admission | None = None) -> Application:
    """The whole application.

    Args:
        room: Entered by the caller.
        options: How it is run.
        admission: For who wants to close it; one of its own when None.
    """
    if admission is None:
        admission = Admission(
            options.max_requests,
            limit_per_key=options.max_requests_per_key,
            per_minute=options.requests_per_minute,
            clock=time.monotonic,
        )
    app = FastAPI(
        title="openjanus",
        version=openjanus.__version__,
        description="OpenAI's protocol for words and pictures, of one model that does both.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    server = Server(room, options, admission)
    _add_operator_routes(app, server)
    _add_model_routes(app, server)
    _add_chat_route(app, server)
    _add_image_routes(app, server)
    if options.page:
        _add_page_routes(app)
    _add_error_handlers(app)
    _declare_bodies(app)
    gate = Gate(app, options=options, admission=admission, metrics=room.metrics)
    if not options.cors_origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=options.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # browser clients send headers of their own
        expose_headers=["x-request-id", "retry-after"],
    )


def _add_operator_routes(app: FastAPI, server: Server) -> None:
    room, admission = server.room, server.admission

    @app.get("/health", response_model=Status, responses=_errors(403, 405, 500, 503))
    async def health() -> Status:
        """Whether the engine is alive: answers while it works."""
        if not room.thread.is_alive:
            raise ApiError(503, "the engine has stopped: restart the server", code="stopped")
        return Status(status="ok")

    @app.get("/ready", response_model=Status, responses=_errors(403, 405, 500, 503))
    async def ready() -> Status:
        """Whether a request would be taken now."""
        if admission.is_draining or not room.thread.is_alive:
            raise ApiError(503, "the server is stopping", code="stopping", retry_after_s=5)
        if admission.is_full:
            raise ApiError(503, "the server is full", code="overloaded", retry_after_s=1)
        return Status(status="ready")

    @app.get("/metrics", response_class=Response, responses=_errors(*_COMMON))
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(room.metrics.text(), media_type=Metrics.content_type)


def _add_model_routes(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models", responses=_errors(*_COMMON))
    async def models() -> ModelList:
        """All names of the model."""
        return ModelList(data=server.cards())

    @app.get("/v1/models/{name:path}", responses=_errors(404, *_COMMON))
    async def model(name: str) -> ModelCard:
        """One of its names."""
        name = server.check_model(name)
        return next(card for card in server.cards() if card.id == name)


def _add_chat_route(app: FastAPI, server: Server) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=ChatAnswer,
        responses={200: {"content": _EVENTS}, **_errors(*_WORK)},
        openapi_extra=_takes(ChatBody),
    )
    async def chat(request: Request) -> Any:
        """Answer about pictures, or talk."""
        body = await server.read(ChatBody, request)
        visit: Visit = request.state.visit
        name = server.check_model(body.model)
        engine = server.room.engine_name(name)
        work = ChatWork(
            room=server.room,
            janus=server.room.model(engine),
            body=body,
            options=server.options,
            fetch=server.fetch,
        )
        if server.options.log_prompts:
            visit.facts["prompt"] = [_shown(message.model_dump()) for message in body.messages]
        job: Job[ReplyPiece] = server.begin(visit, work, body.n, engine)
        writer = ChatWriter(
            id=f"chatcmpl-{uuid.uuid4().hex}", model=name, created=int(time.time()), body=body
        )
        pieces = _timed(job, visit, server.room.metrics, "text")

        def facts() -> dict[str, Any]:
            return {"model": name, **writer.usage().model_dump()}

        if body.stream:
            await job.valid()
            return _event_stream(writer.events(pieces), visit, facts, is_named=False)
        answer = await writer.answer(pieces)
        visit.facts |= facts()
        return answer


def _add_image_routes(app: FastAPI, server: Server) -> None:
    @app.post(
        "/v1/images/generations",
        response_model=ImagesAnswer,
        response_model_exclude_none=True,
        responses={200: {"content": _EVENTS}, **_errors(*_WORK)},
        openapi_extra=_takes(ImagesBody),
    )
    async def generations(request: Request) -> Any:
        """Draw."""
        body = await server.read(ImagesBody, request)
        visit: Visit = request.state.visit
        name = server.check_model(body.model)
        engine = server.room.engine_name(name)
        work = ImagesWork(room=server.room, janus=server.room.model(engine), body=body)
        if server.options.log_prompts:
            visit.facts["prompt"] = body.prompt
        job: Job[DrawnState] = server.begin(visit, work, body.n, engine)
        base = server.options.public_url or str(request.base_url)
        writer = ImagesWriter(
            work=work,
            created=int(time.time()),
            keep=lambda png: f"{base.rstrip('/')}/v1/images/files/{server.store.put(png)}",
        )
        states = _timed(job, visit, server.room.metrics, "image")

        def facts() -> dict[str, Any]:
            return {"model": name, "pictures": writer.num_complete}

        if body.stream:
            await job.valid()
            return _event_stream(writer.events(states), visit, facts, is_named=True)
        answer = await writer.answer(states)
        visit.facts |= facts()
        return answer

    @app.get(
        "/v1/images/files/{name}",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **_errors(403, 404, 405, 500)},
    )
    async def file(name: str) -> Response:
        """A picture that was answered as an address."""
        png = server.store.get(name)
        if png is None:
            raise ApiError(404, "no such picture: it may have been too old, draw it again")
        return Response(png, media_type="image/png", headers={"cache-control": "private"})

    for path in ("edits", "variations"):

        @app.post(f"/v1/images/{path}", responses=_errors(400, *_COMMON), name=path)
        async def edits() -> None:
            """Refused: these weights cannot."""
            raise refused(
                "these weights draw from words alone and cannot change a picture: describe what "
                "you want to /v1/images/generations",
                code="unsupported",
            )


def _add_page_routes(app: FastAPI) -> None:
    def add(file: PageFile) -> None:
        @app.get(file.path, include_in_schema=False)
        async def answer(request: Request) -> Response:
            """A file of the page."""
            if file.is_known(request.headers.get("if-none-match", "")):
                return Response(status_code=304, headers=file.headers)
            return Response(file.body, headers=file.headers)

    for file in page_files():
        add(file)


def _shown(message: Any) -> Any:
    """A message for the log, its pictures cut short."""
    if isinstance(message, dict):
        return {key: _shown(value) for key, value in message.items() if value is not None}
    if isinstance(message, list):
        return [_shown(value) for value in message]
    return message[:60] + "..." if isinstance(message, str) and message[:5] == "data:" else message


async def _timed(job: Job[Any], visit: Visit, metrics: Metrics, kind: str) -> AsyncIterator[Any]:
    """A job's results; how long its first id took is measured."""
    results = job.results()
    try:
        async for result in results:
            yield result
    finally:
        if job.first_at is not None:
            metrics.first_token.labels(kind).observe(job.first_at - visit.began)
        await results.aclose()  # pyright: ignore[reportAttributeAccessIssue]


def _event_stream(
    events: AsyncIterator[ChatChunk] | AsyncIterator[PartialImage | CompletedImage],
    visit: Visit,
    facts: Callable[[], dict[str, Any]],
    *,
    is_named: bool,
) -> StreamingResponse:
    """Events as they are sent.

    Args:
        events: With a ``type`` each where ``is_named``.
        visit: Told the facts in the end.
        facts: What is to be logged.
        is_named: Whether events have names, as those of pictures; else ``[DONE]`` ends them.
    """

    async def lines() -> AsyncIterator[str]:
        try:
            async for event in events:
                name = "" if isinstance(event, ChatChunk) else f"event: {event.type}\n"
                yield f"{name}data: {event.model_dump_json()}\n\n"
            if not is_named:
                yield "data: [DONE]\n\n"
        except ApiError as error:  # too late for a status
            visit.facts["error"] = error.code
            name = "event: error\n" if is_named else ""
            yield f"{name}data: {json.dumps(error.envelope())}\n\n"
        finally:
            visit.facts |= facts()
            await events.aclose()  # pyright: ignore[reportAttributeAccessIssue]

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _add_error_handlers(app: FastAPI) -> None:
    def answer(request: Request, error: ApiError) -> Response:
        visit: Visit = request.state.visit
        visit.facts["error"] = error.code
        return JSONResponse(error.envelope(), status_code=error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return answer(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        messages = {
            404: f"no such path: {path}; GET /openapi.json has all that there are",
            405: f"{path} does not know {request.method}",
        }
        found = ApiError(error.status_code, messages.get(error.status_code, str(error.detail)))
        response = answer(request, found)
        for name, value in (error.headers or {}).items():
            response.headers[name] = value
        return response

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return answer(request, failed(error))


def _takes(kind: type[BaseModel]) -> dict[str, Any]:
    """What the document says of a body, which no parameter of a route declares."""
    schema = {"$ref": _SCHEMAS.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _declare_bodies(app: FastAPI) -> None:
    """Bodies are read by us, so FastAPI knows nothing of their shapes."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = made()
        if is_new:
            for path in document["paths"].values():  # FastAPI's own 422 never is the answer here
                for operation in path.values():
                    operation["responses"].pop("422", None)
            schemas = document["components"]["schemas"]
            for kind in (ChatBody, ImagesBody):
                schema = kind.model_json_schema(ref_template=_SCHEMAS)
                schemas |= schema.pop("$defs", {}) | {kind.__name__: schema}
        return document

    app.openapi = openapi

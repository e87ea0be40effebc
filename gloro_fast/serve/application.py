"""The HTTP application: routes, limits, answers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gloro_fast._version import __version__
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.files.certificate_record import weights_digest
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.serve.batching import Answer, Batcher, Full
from gloro_fast.serve.decoding import decode_many, decode_one
from gloro_fast.serve.rate_limit import RateLimit
from gloro_fast.serve.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

log = logging.getLogger("gloro_fast")

_BODY = {
    "image/png": {"schema": {"type": "string", "format": "binary"}},
    "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
    "image/webp": {"schema": {"type": "string", "format": "binary"}},
    "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {"schema": {"type": "object", "properties": {"image": {}}}},
}
_BATCH = {
    "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {"schema": {"type": "object", "properties": {"images": {"type": "array"}}}},
}


def create_app(net: GloRoNet, settings: Settings | None = None) -> FastAPI:
    """Return an ASGI application that certifies images with ``net``.

    ``POST /certify`` and ``/certify/batch`` take images, ``GET /health``, ``/model`` and ``/metrics`` tell of the
    server, ``/docs`` and ``/openapi.json`` of all that. The net must be left alone while it is served.

    Args:
        net: in evaluation mode and frozen: what is answered is signed by one bound.
        settings: limits; the default ones if None.

    Raises:
        ConfigError: FastAPI or prometheus_client is missing, or the net is in training or not frozen.
    """
    fastapi, prometheus, disconnected = _packages()
    settings = settings or Settings()
    if net.training or not net.frozen:
        raise ConfigError("a net that is served must be in evaluation and frozen; call net.eval().freeze()")
    model = {
        "weights": weights_digest(net.module),
        "method": net.bound.label,
        "executed": settings.executed,
        "epsilon": net.epsilon,
        "lipschitz": net.lipschitz,
        "input_shape": list(net.input_shape),
        "classes": net.num_classes,
        "version": __version__,
    }
    signed = {key: model[key] for key in ("method", "executed", "weights")}

    def certify(images: Tensor) -> Answer:
        found = net.certify(images.to(device=device, dtype=dtype), executed=settings.executed)
        return Answer(found.prediction.cpu(), found.radius.cpu())

    first = next(net.parameters())
    device, dtype = first.device, first.dtype
    batcher = Batcher(certify, settings.max_batch, settings.max_wait_ms / 1000, settings.max_queue)
    limit = RateLimit(settings.rate, settings.max_batch)
    decoders = ThreadPoolExecutor(2, "decode")

    registry = prometheus.CollectorRegistry()
    requests = prometheus.Counter(
        "gloro_requests", "Requests by path and status", ["path", "status"], registry=registry
    )
    images_seen = prometheus.Counter("gloro_images", "Images by outcome", ["certified"], registry=registry)
    seconds = prometheus.Histogram("gloro_request_seconds", "Seconds a request", ["path"], registry=registry)
    prometheus.Gauge("gloro_queue_images", "Images that wait", registry=registry).set_function(lambda: batcher.waiting)
    batches = prometheus.Gauge("gloro_batches", "Forward passes so far", registry=registry)
    batches.set_function(lambda: batcher.batches)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.close()
        decoders.shutdown()

    app: FastAPI = fastapi.FastAPI(
        title="gloro_fast", version=__version__, summary="Certified predictions of a GloRo net", lifespan=lifespan
    )

    def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        response: Response = fastapi.responses.JSONResponse({"detail": message}, status, headers)
        return response

    async def answer(request: Request, many: bool, epsilon: float | None) -> Any:
        if epsilon is not None and not (math.isfinite(epsilon) and epsilon >= 0):
            return refusal(422, "epsilon must be a finite number >= 0")
        radius_asked = net.epsilon if epsilon is None else epsilon
        loop = asyncio.get_running_loop()
        try:
            # One image is counted before it is read; how many a batch has is not known yet.
            if not many and (wait := limit.wait(_client(request), 1)):
                return refusal(429, f"too many images; try again in {wait} s", {"Retry-After": str(wait)})
            async with asyncio.timeout(settings.timeout):
                body = await _read(request, settings.max_bytes)
        except disconnected:
            return refusal(400, "the body broke off")
        except TimeoutError:
            return refusal(408, f"the body did not come within {settings.timeout:g} s")
        if body is None:
            return refusal(413, f"the body is larger than {settings.max_bytes:,} bytes")
        try:
            if many:
                images = await loop.run_in_executor(decoders, decode_many, body, net.input_shape, settings.max_batch)
            else:
                images = await loop.run_in_executor(decoders, decode_one, body, net.input_shape)
            del body
            if many and (wait := limit.wait(_client(request), len(images))):
                return refusal(429, f"too many images; try again in {wait} s", {"Retry-After": str(wait)})
            async with asyncio.timeout(settings.timeout):
                found = await batcher.submit(images)
        except DataError as error:
            return refusal(422, str(error))
        except Full as error:
            return refusal(503, str(error), {"Retry-After": "1"})
        except TimeoutError:
            return refusal(504, f"not certified within {settings.timeout:g} s; try again later")
        results = [
            {
                "prediction": prediction,
                "radius": radius if math.isfinite(radius) else "inf",
                "certified": radius > radius_asked,
            }
            for prediction, radius in zip(found.prediction.tolist(), found.radius.tolist(), strict=True)
        ]
        for result in results:
            images_seen.labels(str(result["certified"]).lower()).inc()
        shared = {"epsilon": radius_asked, **signed}
        return {"results": results, **shared} if many else {**results[0], **shared}

    # FastAPI reads the types of parameters by their names, which are not to be found in this function.
    async def certify_one(request, epsilon=None):  # type: ignore[no-untyped-def]
        """Certify one image: a PNG, JPEG, WebP or .npy file as the body, or JSON {"image": nested lists or base64}."""
        return await answer(request, False, epsilon)

    async def certify_batch(request, epsilon=None):  # type: ignore[no-untyped-def]
        """Certify several images: an .npy file of all, or JSON {"images": [nested lists or base64 of files, ...]}."""
        return await answer(request, True, epsilon)

    for handler, path, content in ((certify_one, "/certify", _BODY), (certify_batch, "/certify/batch", _BATCH)):
        handler.__annotations__.update(request=fastapi.Request, epsilon=float | None)
        body = {"requestBody": {"required": True, "content": content}}
        app.post(path, openapi_extra=body, response_model=None)(handler)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server runs."""
        return {"status": "ok"}

    @app.get("/model")
    async def described() -> dict[str, Any]:
        """Tell what the net takes, and what its certificates rest on."""
        return model

    async def metrics():  # type: ignore[no-untyped-def]
        """Give numbers in Prometheus' text format."""
        return fastapi.Response(prometheus.generate_latest(registry), media_type=prometheus.CONTENT_TYPE_LATEST)

    app.get("/metrics", response_model=None)(metrics)
    known = {route.path for route in app.routes if hasattr(route, "path")}

    async def observe(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path if request.url.path in known else "other"
        start = time.perf_counter()
        try:
            response = await go_on(request)
        except Exception:
            log.exception("a request to %s failed", path)
            response = refusal(500, "the server failed; its log says why")
        requests.labels(path, str(response.status_code)).inc()
        seconds.labels(path).observe(time.perf_counter() - start)
        return response

    app.middleware("http")(observe)
    return app


def run_server(app: FastAPI, host: str, port: int, timeout: float) -> None:
    """Serve ``app`` until SIGTERM or Ctrl-C; what was accepted until then is answered.

    Args:
        app: from :func:`create_app`.
        host: address to listen on.
        port: likewise; 0 for any that is free.
        timeout: seconds that requests get to end at most.

    Raises:
        ConfigError: uvicorn is missing.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise _missing(error) from None
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=512,
        timeout_graceful_shutdown=max(1, math.ceil(timeout)),
    )


def _packages() -> tuple[Any, Any, type[Exception]]:
    try:
        import fastapi
        import fastapi.responses
        import prometheus_client
        from starlette.requests import ClientDisconnect
    except ImportError as error:
        raise _missing(error) from None
    return fastapi, prometheus_client, ClientDisconnect


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"a server needs {error.name}, which cannot be imported; pip install 'gloro-fast[serve]'")


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


async def _read(request: Request, limit: int) -> bytes | None:
    """Return the body, or None as soon as it is known to be larger than ``limit``."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)

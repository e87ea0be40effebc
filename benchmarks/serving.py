"""A server under many clients, bad requests among them, beside a bare FastAPI application that only runs the net.

    python -m benchmarks.serving [--requests 1000] [--clients 16]

Prints whether all were answered, whether what was certified is what ``certify`` says, memory before and after, and
requests a second. Needs extra ``serve`` and httpx.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import pickle
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gloro_fast import GloRoNet, architectures

SHAPE = (1, 28, 28)
EPSILON = 0.05
ROUNDING = 1e-5


def make_net() -> GloRoNet:
    """Return a 2C2F with random weights, frozen."""
    torch.manual_seed(0)
    module = architectures.build("2C2F", input_shape=SHAPE, num_classes=10)
    return GloRoNet(module, EPSILON, SHAPE).eval().freeze()


def bare_app(net: GloRoNet) -> Any:
    """Return what one writes without this package: decode, forward, argmax, image by image."""
    from fastapi import FastAPI, Request

    app = FastAPI()

    async def predict(request):  # type: ignore[no-untyped-def]
        body = await request.body()
        pixels = np.asarray(Image.open(io.BytesIO(body)), dtype=np.float32) / 255
        with torch.no_grad():
            logits = net.module(torch.from_numpy(pixels)[None, None])
        return {"prediction": int(logits.argmax(1))}

    predict.__annotations__["request"] = Request
    app.post("/certify")(predict)
    return app


def serve(kind: str, port: int) -> None:
    """Serve in this process."""
    from gloro_fast.serve import create_app, run_server

    torch.set_num_threads(1)
    net = make_net()
    run_server(create_app(net) if kind == "ours" else bare_app(net), "127.0.0.1", port, 30)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bad_bodies() -> list[bytes]:
    """Return what must be refused: truncated, of 50 megapixels, of three channels, NaN, pickled."""
    nan = io.BytesIO()
    np.save(nan, np.full(SHAPE, np.nan, np.float32))
    small = png(np.zeros(SHAPE[1:], np.uint8))
    large = png(np.zeros((7100, 7100), np.uint8))
    return [small[:40], large, png(np.zeros((28, 28, 3), np.uint8)), nan.getvalue(), pickle.dumps({"x": os.system})]


def resident(process: int) -> float:
    """Return the resident memory of a process in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def send(url: str, bodies: list[bytes], clients: int) -> tuple[list[Any], float]:
    """Send each body once, from as many clients; return the responses in order, and the seconds it took."""
    import httpx

    found: list[Any] = [None] * len(bodies)

    async def one(which: int) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for index in range(which, len(bodies), clients):
                found[index] = await client.post(url, content=bodies[index])

    start = time.perf_counter()
    await asyncio.gather(*(one(which) for which in range(clients)))
    return found, time.perf_counter() - start


def started(kind: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server of a kind, and wait until it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.serving", "--serve", kind, "--port", str(port)])
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    return process, f"http://127.0.0.1:{port}/certify"


def main(requests: int, clients: int) -> None:
    """Run both and print."""
    torch.set_num_threads(1)
    net = make_net()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (requests, *SHAPE[1:]), dtype=np.uint8)
    wanted = net.certify(torch.from_numpy(pixels)[:, None].float() / 255)
    good = [png(image) for image in pixels]
    bad = bad_bodies()
    # Every fifth is one that must be refused.
    mixed = [bad[index // 5 % len(bad)] if index % 5 == 4 else body for index, body in enumerate(good)]

    process, url = started("ours")
    try:
        asyncio.run(send(url, good[:100], clients))
        before = resident(process.pid)
        answers, _ = asyncio.run(send(url, mixed, clients))
        after = resident(process.pid)
        _, ours = asyncio.run(send(url, good, clients))
        later = resident(process.pid)
    finally:
        process.terminate()
        ended = process.wait(30)
    print("answers by status:", dict(Counter(answer.status_code for answer in answers)))
    differing = 0
    for index, answer in enumerate(answers):
        if index % 5 == 4:
            differing += answer.status_code != 422
            continue
        content, radius = answer.json(), float(wanted.radius[index])
        near = abs(radius - EPSILON) <= ROUNDING
        differing += (
            content["prediction"] != int(wanted.prediction[index])
            or abs(content["radius"] - radius) > ROUNDING
            or (content["certified"] != bool(wanted.certified[index]) and not near)
        )
    print(f"{differing} of {len(answers)} differ from certify; {int(wanted.certified.sum())} images are certified")
    print(f"memory: {before:.0f} MB before, {after:.0f} MB after {requests}, {later:.0f} MB after {2 * requests}")
    print(f"exit code after SIGTERM: {ended}")

    process, url = started("bare")
    try:
        asyncio.run(send(url, good[:100], clients))
        _, bare = asyncio.run(send(url, good, clients))
    finally:
        process.terminate()
        process.wait(30)
    print(f"requests a second: {requests / ours:.0f} certified, {requests / bare:.0f} bare FastAPI and forward")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--serve", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.port)
    else:
        main(given.requests, given.clients)

"""A net behind HTTP: what is answered is what ``certify`` says, and nothing that a client sends does harm."""

import asyncio
import base64
import io
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gloro_fast import GloRoNet, architectures
from gloro_fast.errors import ConfigError, DataError

httpx = pytest.importorskip("httpx", reason="requests are sent by httpx")
for package in ("fastapi", "prometheus_client", "uvicorn"):
    pytest.importorskip(package, reason="the server needs gloro-fast[serve]")

from gloro_fast.serve import Settings, create_app  # noqa: E402
from gloro_fast.serve.decoding import decode_many, decode_one  # noqa: E402
from gloro_fast.serve.rate_limit import RateLimit  # noqa: E402

SHAPE = (1, 8, 8)
# Of a radius, for logits that another batch size rounds otherwise.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    module = architectures.build("2C2F", input_shape=SHAPE, num_classes=5)
    net = GloRoNet(module, 0.01, SHAPE).eval()
    certificate = net.certify(pixels(200).float() / 255)
    net.epsilon = float(certificate.radius.median())
    return net.freeze()


def pixels(count, seed=0):
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def encoded(image, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, format, **({"lossless": True} if format == "WEBP" else {}))
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def with_client(app, what):
    """Run ``what(client)`` within the lifespan of ``app``."""

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://s") as c:
            return await what(c)

    return asyncio.run(run())


def large_png(side):
    """A PNG file that says it has side x side pixels, of which none are there."""
    body = bytearray(encoded(np.zeros((8, 8), np.uint8)))
    body[16:24] = side.to_bytes(4, "big") * 2
    return bytes(fixed_checksum(body))


def fixed_checksum(body):
    import zlib

    body[29:33] = zlib.crc32(body[12:29]).to_bytes(4, "big")
    return body


GOOD = encoded(pixels(1)[0, 0])
BAD = {
    "truncated PNG": (GOOD[: len(GOOD) // 2], "truncated"),
    "empty": (b"", "no PNG"),
    "text": (b"hello", "no PNG"),
    "50 megapixels": (large_png(7100), "1x7100x7100 but the net takes 1x8x8"),
    "a gigapixel": (large_png(32000), "far too many pixels"),
    "colour": (encoded(np.zeros((8, 8, 3), np.uint8)), "3x8x8 but the net takes 1x8x8"),
    "transparent": (encoded(np.zeros((8, 8, 4), np.uint8)), "transparency"),
    "another size": (encoded(np.zeros((9, 8), np.uint8)), "1x9x8 but the net takes 1x8x8"),
    "16 bits": (encoded(np.zeros((8, 8), np.uint16)), "8 bits"),
    "GIF": (encoded(np.zeros((8, 8), np.uint8), "GIF"), "no PNG"),
    "NaN in npy": (npy(np.full(SHAPE, np.nan, np.float32)), "NaN or outside"),
    "inf in npy": (npy(np.full(SHAPE, np.inf, np.float32)), "NaN or outside"),
    "bytes as floats": (npy(np.full(SHAPE, 255.0)), "divide bytes by 255"),
    "shape of npy": (npy(np.zeros((3, 8, 8), np.float32)), "3x8x8 but the net takes"),
    "objects in npy": (npy(np.array([print, {}], dtype=object)), "holds object"),
    "truncated npy": (npy(np.zeros(SHAPE))[:-1], "truncated"),
    "huge npy": (
        npy(np.zeros(SHAPE)).replace(b"(1, 8, 8), ", b"(9999999999999, 8, 8), ")[:200],
        "takes 1x8x8|truncated|header",
    ),
    "pickle": (pickle.dumps({"a": os.system}), "no PNG"),
    "NaN in JSON": (b'{"image": [[' + b"[NaN, 0, 0, 0, 0, 0, 0, 0]," * 7 + b"[0, 0, 0, 0, 0, 0, 0, 0]]]}", "NaN or"),
    "ragged JSON": (b'{"image": [[1, 2], [3]]}', "one length"),
    "strings in JSON": (b'{"image": [["a"]]}', "no number"),
    "deep JSON": (b'{"image": ' + b"[" * 100_000, "no JSON"),
    "deep lists": (b'{"image": ' + b"[" * 500 + b"]" * 500 + b"}", "JSON|length|takes|number"),
    "no entry": (b'{"picture": 1}', "no entry image"),
    "no base64": (b'{"image": "?"}', "base64"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_of_the_net_is_refused_with_the_reason(kind):
    body, message = BAD[kind]
    with pytest.raises(DataError, match=message):
        decode_one(body, SHAPE)


def test_nothing_pickled_is_ever_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "harm"), "w")

    for body in (pickle.dumps(Evil()), npy(np.array([Evil()], dtype=object))):
        with pytest.raises(DataError):
            decode_one(body, SHAPE)
        with pytest.raises(DataError):
            decode_many(body, SHAPE, 4)
    assert not (tmp_path / "harm").exists()


def test_pixels_come_out_the_same_however_they_were_sent():
    image = pixels(1)
    wanted = image.float() / 255
    listed = (b'{"image": ' + str(wanted[0].double().tolist()).encode() + b"}", npy(wanted[0].numpy()))
    text = b'{"image": "' + base64.b64encode(GOOD) + b'"}'
    fortran = npy(np.asfortranarray(wanted[0].numpy()))
    for body in (GOOD, encoded(image[0, 0], "WEBP"), text, npy(image[0].numpy()), *listed, fortran):
        assert torch.equal(decode_one(body, SHAPE), wanted)
    assert torch.equal(decode_many(npy(image.numpy()), SHAPE, 1), wanted)
    colour = torch.randint(0, 256, (6, 7, 3), dtype=torch.uint8)
    assert torch.equal(decode_one(encoded(colour), (3, 6, 7)), colour.permute(2, 0, 1)[None].float() / 255)
    assert decode_one(encoded(image[0, 0], "JPEG"), SHAPE).shape == (1, *SHAPE)


@pytest.mark.parametrize("many", [b'{"images": []}', b'{"images": [1, 2, 3]}', npy(np.zeros((3, *SHAPE))), GOOD])
def test_a_batch_of_too_many_or_none_is_refused(many):
    with pytest.raises(DataError, match=r"1 to 2 images|/certify"):
        decode_many(many, SHAPE, 2)


def test_requests_of_many_clients_get_what_certify_says(net):
    images = pixels(150, seed=1)
    wanted = net.certify(images.float() / 255)
    app = create_app(net, Settings(max_batch=16))
    bad = list(BAD.values())

    async def client_work(client, which):
        answers = []
        for index in range(which, len(images), 16):
            if index % 5 == 0:
                refused = await client.post("/certify", content=bad[index % len(bad)][0])
                assert refused.status_code == 422
                assert "Traceback" not in refused.text
            answers.append((index, await client.post("/certify", content=encoded(images[index, 0]))))
        return answers

    async def all_clients(client):
        found = await asyncio.gather(*(client_work(client, which) for which in range(16)))
        batch = await client.post("/certify/batch", content=npy(images[:16].numpy()))
        metrics, model = await client.get("/metrics"), await client.get("/model")
        return sorted(entry for one in found for entry in one), batch, metrics.text, model.json()

    found, batch, metrics, model = with_client(app, all_clients)
    assert len(found) == len(images)
    certified = 0
    for index, response in found:
        answer = response.json()
        assert response.status_code == 200
        assert answer["prediction"] == wanted.prediction[index]
        assert answer["radius"] == pytest.approx(float(wanted.radius[index]), rel=ROUNDING, abs=ROUNDING)
        if abs(answer["radius"] - net.epsilon) > ROUNDING:
            assert answer["certified"] == bool(wanted.certified[index])
        assert answer["certified"] == (answer["radius"] > net.epsilon)
        assert (answer["epsilon"], answer["method"], answer["weights"]) == (net.epsilon, "auto", model["weights"])
        certified += answer["certified"]
    assert 0 < certified < len(images)
    assert [r["prediction"] for r in batch.json()["results"]] == wanted.prediction[:16].tolist()
    # Requests were certified together.
    passes = next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("gloro_batches "))
    assert passes < len(images) / 2
    assert (
        f'gloro_images_total{{certified="true"}} {certified + sum(r["certified"] for r in batch.json()["results"])}'
        in metrics
    )
    assert 'gloro_requests_total{path="/certify",status="422"} 30.0' in metrics


def test_one_image_at_a_time_has_the_bits_of_certify(net):
    images = pixels(8, seed=2)
    app = create_app(net, Settings(max_batch=1))

    async def send(client):
        return await asyncio.gather(*(client.post("/certify", content=encoded(image[0])) for image in images))

    for image, response in zip(images, with_client(app, send), strict=True):
        assert response.json()["radius"] == float(net.certify(image[None].float() / 255).radius)


def test_the_radius_asked_for_decides(net):
    app = create_app(net)

    async def send(client):
        return [await client.post(f"/certify?epsilon={e}", content=GOOD) for e in (0, 1e9, -1, "nan", "x")]

    none, huge, *refused = with_client(app, send)
    assert (none.json()["certified"], huge.json()["certified"]) == (True, False)
    assert [response.status_code for response in refused] == [422, 422, 422]


def test_limits_refuse_and_say_when_to_come_again(net):
    app = create_app(net, Settings(max_bytes=1000, rate=0.001, max_batch=2))

    async def send(client):
        async def chunks():
            for _ in range(100):
                yield b"x" * 100

        return [
            await client.post("/certify", content=b"x" * 1001),
            await client.post("/certify/batch", content=chunks()),
            await client.post("/certify", content=GOOD),
            await client.post("/certify", content=GOOD),
            await client.post("/certify/batch", content=npy(np.zeros((1, *SHAPE)))),
            await client.get("/nothing"),
        ]

    responses = with_client(app, send)
    assert [response.status_code for response in responses] == [413, 413, 200, 429, 429, 404]
    assert int(responses[3].headers["retry-after"]) > 100


def test_a_full_queue_is_503_and_a_slow_net_504(net, monkeypatch):
    app = create_app(net, Settings(max_batch=1, max_queue=1, timeout=0.3))
    slow = net.certify
    monkeypatch.setattr(net, "certify", lambda *a, **k: (time.sleep(0.5), slow(*a, **k))[1])

    async def send(client):
        return await asyncio.gather(*(client.post("/certify", content=GOOD) for _ in range(4)))

    codes = sorted(response.status_code for response in with_client(app, send))
    assert set(codes) == {503, 504}


def test_what_fails_inside_stays_inside(net, monkeypatch):
    app = create_app(net)
    monkeypatch.setattr(net, "certify", lambda *a, **k: 1 / 0)

    async def send(client):
        failed = await client.post("/certify", content=GOOD)
        monkeypatch.undo()
        return failed, await client.post("/certify", content=GOOD), await client.get("/health")

    failed, after, health = with_client(app, send)
    assert (failed.status_code, failed.json()) == (500, {"detail": "the server failed; its log says why"})
    assert (after.status_code, health.json()) == (200, {"status": "ok"})


def test_the_page_of_the_interface_names_every_route(net):
    async def send(client):
        return (await client.get("/openapi.json")).json(), (await client.get("/docs")).status_code

    described, status = with_client(create_app(net), send)
    assert {"/certify", "/certify/batch", "/health", "/model", "/metrics"} <= described["paths"].keys()
    assert "image/png" in described["paths"]["/certify"]["post"]["requestBody"]["content"]
    assert status == 200


def test_a_client_pays_for_images_and_gets_them_back_with_time():
    now = [0.0]
    limit = RateLimit(2.0, 4, lambda: now[0])
    assert [limit.wait("a", 1) for _ in range(4)] == [0, 0, 0, 0]
    assert limit.wait("a", 4) == 2
    assert limit.wait("b", 4) == 0
    now[0] = 1.0
    assert (limit.wait("a", 2), limit.wait("a", 1)) == (0, 1)
    for client in range(20_000):
        limit.wait(str(client), 1)
    assert len(limit._clients) == 10_000


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"timeout": 0.0}, {"rate": -1.0}, {"max_wait_ms": float("nan")}, {"max_queue": 3}]
)
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)


def test_a_net_that_is_not_frozen_is_refused(net):
    torch.manual_seed(0)
    module = architectures.build("2C2F", input_shape=SHAPE, num_classes=5)
    with pytest.raises(ConfigError, match="frozen"):
        create_app(GloRoNet(module, 0.1, SHAPE).eval())


SERVER = """
import socket, sys, threading, time, torch
from gloro_fast import GloRoNet, architectures
from gloro_fast.serve import Settings, create_app, run_server
torch.manual_seed(0); torch.set_num_threads(1)
module = architectures.build("2C2F", input_shape=(1, 8, 8), num_classes=5)
net = GloRoNet(module, 0.01, (1, 8, 8)).eval().freeze()
certify = net.certify
net.certify = lambda *a, **k: (print("certifying", flush=True), time.sleep(1), certify(*a, **k))[2]
with socket.socket() as s:
    s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
app = create_app(net, Settings())
print(port, flush=True)
run_server(app, "127.0.0.1", port, 10)
print("ended", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name != "posix", reason="signals are those of POSIX")
def test_sigterm_ends_the_server_after_what_it_accepted():
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment) as server:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        for _ in range(200):
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)

        async def send():
            async with httpx.AsyncClient(timeout=20) as client:
                waiting = asyncio.create_task(client.post(f"{url}/certify", content=GOOD))
                await asyncio.to_thread(server.stdout.readline)
                server.send_signal(signal.SIGTERM)
                return await waiting

        answer = asyncio.run(send())
        assert answer.status_code == 200
        assert server.stdout.read().strip() in ("", "ended")
        assert server.wait(20) in (0, -signal.SIGTERM)

"""``gloro-fast serve``: the net of a run behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from gloro_fast.cli.options import (
    DeviceOption,
    ExecutedOption,
    MethodOption,
    RunArgument,
    ThreadsOption,
    usable_device,
    use_threads,
)


def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any that is free.", min=0, max=65535)] = 8000,
    max_batch: Annotated[int, typer.Option(help="Images of one forward pass at most.", min=1)] = 64,
    max_wait_ms: Annotated[float, typer.Option(help="How long an image waits for others.", min=0)] = 2.0,
    max_bytes: Annotated[int, typer.Option(help="Size of a request's body at most.", min=1)] = 10_000_000,
    rate: Annotated[float, typer.Option(help="Images a second for one client; 0 for any number.", min=0)] = 0.0,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.", min=0.001)] = 30.0,
    method: MethodOption = None,
    executed: ExecutedOption = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Serve certified predictions over HTTP (extra serve): POST an image to /certify; /docs describes the rest."""
    from gloro_fast.bounds import DEFAULT_METHOD, check_method
    from gloro_fast.serve import Settings, create_app, run_server
    from gloro_fast.train.trained_net import load_net

    method = DEFAULT_METHOD if method is None else method
    check_method(method)
    settings = Settings(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_bytes=max_bytes,
        rate=rate,
        max_queue=max(1024, 4 * max_batch),
        timeout=timeout,
        executed=executed,
    )
    use_threads(threads)
    net, config = load_net(run, usable_device(device))
    app = create_app(net.freeze(method), settings)
    typer.echo(f"serving {config.recipe.name} on http://{host}:{port}, described at /docs", err=True)
    run_server(app, host, port, timeout)

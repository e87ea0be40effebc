"""What each of two processes does in ``test_shared_training``: runs that share their batches, and what stops them.

Prints one line of JSON. Beside it lie ``tiny_run`` and ``fake_graph`` of the tests of training, on the path.
"""

import contextlib
import hashlib
import json
import os
import resource
import runpy
import signal
import sys
import warnings
from pathlib import Path

import torch
from fake_graph import FakeRecorder
from processes import ROOT
from tiny_run import EVERYTHING, tiny_data, tiny_recipe
from wrapped_nets import wrap

from gloro_fast.distributed import joined
from gloro_fast.errors import DistributedError, GloroFastError
from gloro_fast.files import atomic
from gloro_fast.train import Interrupted, Trainer, build
from gloro_fast.train import trainer as trainer_module
from gloro_fast.train.observers import curves

OUT = Path(sys.argv[1])
# 4 batches of 16 and one of a single image, of which one process has none.
FIELDS = {"warmup_epochs": 1, "augmentation": "default", "noise": 0.1, "epochs": 2}
ONE_OVER, HELD_OUT = {"train": 65}, {"train": 75}


def digest(trainer):
    """Hash the bits of weights, iterates and moments."""
    named = {
        name: tensor for name, tensor in trainer.state.tensors().items() if name.startswith(("net.", "optimizer."))
    }
    sha = hashlib.sha256()
    for name in sorted(named):
        sha.update(named[name].detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def rows(trainer):
    return [[row.loss, row.train_clean, row.train_vra, row.lipschitz] for row in trainer.state.rows]


def at_step(trainer, epoch, batch, act):
    """Let something happen once after a step."""
    stop, done = trainer._stop_in_epoch, []

    def then(every):
        if (trainer.state.epoch + 1, trainer.state.batch) == (epoch, batch) and not done:
            done.append(True)
            act()
        stop(every)

    trainer._stop_in_epoch = then


def main(group):
    rank = group.rank
    curves.draw = lambda rows, path: path.write_bytes(b"")
    found = {}
    trainer = Trainer(tiny_recipe(**FIELDS), tiny_data(**ONE_OVER), OUT / "eager")
    result = trainer.fit()
    found |= {"eager": digest(trainer), "rows": rows(trainer), "vra": result.vra, "clean": result.clean_accuracy}
    found["weights"] = [t.flatten()[:4].tolist() for t in trainer.net.parameters()]

    whole = Trainer(tiny_recipe(**EVERYTHING), tiny_data(**HELD_OUT), OUT / "whole")
    whole.fit()
    found["whole"] = digest(whole)

    # As it is captured, Adam reads its rate from a tensor, and rounds otherwise.
    build._TENSOR_RATE = ("cpu",)
    recorder = FakeRecorder()
    trainer_module.recorder_for = lambda device: recorder
    for name in ("as they come", "resident", "streamed"):
        graphs = name != "as they come"
        trainer = Trainer(tiny_recipe(**EVERYTHING), tiny_data(**HELD_OUT), OUT / name, graphs=graphs)
        if name == "streamed":
            trainer._steps._resident = None
        trainer.fit()
        found[name] = digest(trainer)
    found["replays"] = recorder.replays
    trainer_module.recorder_for = lambda device: None
    build._TENSOR_RATE = ("cuda",)

    # One of the two is told to stop, and both do.
    trainer = Trainer(tiny_recipe(**EVERYTHING), tiny_data(**HELD_OUT), OUT / "run")
    if rank == 1:
        at_step(trainer, 2, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        trainer.fit()
    except Interrupted as stop:
        found["stopped"] = [int(stop.signal), trainer.state.epoch, trainer.state.batch]

    # The disk of the first is full in the next epoch.
    trainer = Trainer.resume(OUT / "run", tiny_data(**HELD_OUT))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 0:
        at_step(trainer, 3, 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1])))
    try:
        trainer.fit()
    except GloroFastError as error:
        found["full"] = [type(error).__name__, str(error)]
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    trainer = Trainer.resume(OUT / "run", tiny_data(**HELD_OUT))
    found["epoch kept"] = trainer.state.epoch
    trainer.fit()
    found["resumed"] = digest(trainer)

    # To be killed, below.
    trainer = Trainer(tiny_recipe(**EVERYTHING), tiny_data(**HELD_OUT), OUT / "killed")
    at_step(trainer, 2, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with contextlib.suppress(Interrupted):
        trainer.fit()

    # The loss diverges.
    trainer = Trainer(tiny_recipe(), tiny_data(), OUT / "diverging")
    at_step(trainer, 2, 1, lambda: trainer.net.module[0].weight.data.fill_(torch.inf))
    # Data of which one process has others, and a folder that is in use.
    attempts = {
        "diverged": trainer.fit,
        "other data": lambda: Trainer(tiny_recipe(), tiny_data(seed=rank), OUT / "other"),
        "in use": lambda: Trainer(tiny_recipe(), tiny_data(), OUT / "eager"),
        "small batch": lambda: Trainer(tiny_recipe(batch_size=1), tiny_data(), OUT / "other"),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except GloroFastError as error:
            found[name] = [type(error).__name__, str(error)]
    found["wrapped"] = wrap(group)
    runpy.run_path(str(ROOT / "examples" / "ddp.py"))["main"](1)
    print("\n" + json.dumps(found), flush=True)

    # The first is killed while it writes the checkpoint of the second epoch.
    if group.is_main:
        atomic.os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
    trainer = Trainer.resume(OUT / "killed", tiny_data(**HELD_OUT))
    try:
        trainer.fit()
    except DistributedError as error:
        found["lost"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with joined() as group:
        main(group)
    # FSDP2's mesh holds gloo's threads to the end of a process, which they abort now and then: "terminate called
    # without an active exception". It does so without this package, too.
    sys.stdout.flush()
    os._exit(0)

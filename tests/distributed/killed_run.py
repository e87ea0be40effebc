"""``gloro-fast`` under torchrun, a process of which kills itself in the middle of an epoch, the first time."""

import os
import signal
import sys

from gloro_fast import cli
from gloro_fast.distributed import restarts
from gloro_fast.train import Trainer
from gloro_fast.train.observers import curves


def main():
    curves.draw = lambda rows, path: path.write_bytes(b"")
    stop = Trainer._stop_in_epoch

    def then(trainer, every):
        if restarts() == 0 and trainer.group.rank == 1 and (trainer.state.epoch, trainer.state.batch) == (1, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        stop(trainer, every)

    Trainer._stop_in_epoch = then
    cli.main()


if __name__ == "__main__":
    sys.argv[0] = "gloro-fast"
    main()

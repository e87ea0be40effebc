"""A training run small enough for tests; as a script, one that ends itself with a signal."""

import argparse
import os
import signal
from pathlib import Path

import torch

from gloro_fast.data import DataSet, Split
from gloro_fast.recipes import Recipe, get
from gloro_fast.train import Observer, Trainer

SIDE, CLASSES, BATCH, EPOCHS = 8, 4, 16, 3
STEPS = 4


def tiny_data(train=STEPS * BATCH + 4, test=40, seed=0) -> DataSet:
    """Noisy stripes whose place tells the class; less 10 for validation they make 3 batches of 16 and one of 10."""
    generator = torch.Generator().manual_seed(seed)

    def split(count: int) -> Split:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        images = torch.randint(100, (count, 1, SIDE, SIDE), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[0, 2 * label] += 150
        return Split(images.to(torch.uint8), labels)

    return DataSet("stripes", split(train), split(test), tuple("abcd"))


def tiny_recipe(**fields) -> Recipe:
    base = {"epochs": EPOCHS, "batch_size": BATCH, "epsilon": 0.1, "power_iterations": 2}
    return get("digits").override(**{**base, **fields})


# Everything random is in use, and the state of everything.
EVERYTHING = {"warmup_epochs": 1, "augmentation": "default", "validation_size": 10, "epsilon_schedule": "log"}


class SignalAt(Observer):
    """Sends a signal to the process after a step of an epoch."""

    def __init__(self, number: signal.Signals, epoch: int, batch: int) -> None:
        self.number, self.at = number, (epoch, batch)

    def on_step(self, step):
        if (step.epoch, step.batch) == self.at:
            os.kill(os.getpid(), self.number)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill", nargs=2, type=int, metavar=("EPOCH", "BATCH"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    observers = []
    if options.kill:
        observers.append(SignalAt(signal.SIGKILL, *options.kill))
    Trainer(tiny_recipe(**EVERYTHING), tiny_data(), options.out, observers=observers).fit()


if __name__ == "__main__":
    main()

"""A GloRo net as a LightningModule: it trains, logs VRA, and resumes from Lightning's checkpoints.

    python examples/lightning_module.py [--epochs 10]

Needs lightning, and scikit-learn for its handwritten digits: pip install lightning scikit-learn.
"""

import argparse
import tempfile
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from gloro_fast import GloRoNet, architectures, data
from gloro_fast.losses import TradesLoss


class CertifiedClassifier(lightning.LightningModule):
    """The paper's 2C2F, trained by TRADES."""

    def __init__(self, input_shape: tuple[int, ...], epsilon: float = 0.3, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        module = architectures.build("2C2F", input_shape=input_shape, num_classes=10)
        self.net = GloRoNet(module, epsilon, input_shape)
        self.criterion = TradesLoss(lam=1.0)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss; K moves on by power iteration with every forward pass."""
        loss = self.net(*batch, self.criterion)
        self.log("K", self.net.batch_statistics.lipschitz, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log VRA by a bound, not by the estimate that trains."""
        images, labels = batch
        certificate = self.net.certify(images)  # found once for these weights, whatever the number of batches
        self.log("vra", (certificate.certified & (certificate.prediction == labels)).double().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam, as the paper has it."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])


def loader(split: data.Split, shuffle: bool) -> DataLoader:
    """Return batches in [0, 1], as any PyTorch data set would give them."""
    return DataLoader(TensorDataset(data.to_float(split.images), split.labels), batch_size=64, shuffle=shuffle)


def main(epochs: int) -> None:
    """Train half of the epochs, then resume from the checkpoint for the other half."""
    lightning.seed_everything(0, verbose=False)
    digits = data.load("digits")
    loaders = loader(digits.train, True), loader(digits.test, False)
    with tempfile.TemporaryDirectory() as folder:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
        first = lightning.Trainer(max_epochs=epochs // 2, **quiet)
        first.fit(CertifiedClassifier(digits.input_shape), *loaders)
        print(f"epoch {first.current_epoch}: VRA {first.callback_metrics['vra']:.1%}")
        # The power iterates are buffers, so that they are in the checkpoint with the weights.
        checkpoint = Path(folder) / "half.ckpt"
        first.save_checkpoint(checkpoint)

        trainer = lightning.Trainer(max_epochs=epochs, **quiet)
        classifier = CertifiedClassifier(digits.input_shape)
        trainer.fit(classifier, *loaders, ckpt_path=checkpoint)
        print(f"epoch {trainer.current_epoch}: VRA {trainer.callback_metrics['vra']:.1%}, resumed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)

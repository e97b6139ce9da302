"""A VAE as one writes it with Lightning alone: LightningCLI, ModelCheckpoint, CSVLogger and torch's DataLoader."""

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class PlainVAE(LightningModule):
    """A VAE of 8 x 8 digits.

    Args:
        latent_dim: dimension of the latents
        lr: Adam's learning rate
    """

    def __init__(self, latent_dim: int = 8, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 256), nn.ReLU(), nn.Linear(256, 64))
        self.lr = lr

    def compute_loss(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        return (reconstruction + kl).mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch[0])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.compute_loss(batch[0]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr)


class PlainDigits(LightningDataModule):
    """scikit-learn's digits, `[N, 64]` in [0, 1].

    Args:
        batch_size: number of examples per batch
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        data = torch.tensor(load_digits().data / 16, dtype=torch.float32)
        self.train_set, self.val_set = TensorDataset(data[:1437]), TensorDataset(data[1437:])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, self.batch_size)


def main(args: list[str]) -> None:
    """Run a command of LightningCLI, with checkpoints in checkpoints/ and metrics in logs/."""
    LightningCLI(
        PlainVAE,
        PlainDigits,
        args=args,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        subclass_mode_model=True,
        trainer_defaults={
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": ".", "name": "logs", "version": 0},
            },
            "callbacks": [ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=10)],
            "accelerator": "cpu",
            "log_every_n_steps": 5,
        },
    )

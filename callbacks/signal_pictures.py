"""Pictures of one-dimensional series as lines."""

from collections.abc import Sequence
from typing import IO

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.pictures import Reconstructions, SamplePictures
from gen_lightning.checks import check_range
from gen_lightning.contracts import GenerativeModel, SignalData, find_datamodule, require
from gen_lightning.errors import UserError


class SignalPlot(SamplePictures):
    """A plot of validation series and of generated ones beside them: every n iterations and at the end.

    Samples are always from the same latents; those of a class-conditional model have the classes in rotation. The
    channels are lines of different colours, in the units that the model sees. Needs a data module with
    `signals(split)`.

    Args:
        every_n_iterations: number of iterations between two plots; at least 1
        num_signals: number of samples, and the largest number of validation series; at least 1. A row has four of each.
        seed: seed of the latents

    Raises:
        UserError: a number is too small; in `setup`, the data are not series.
    """

    def __init__(self, every_n_iterations: int = 500, num_signals: int = 16, seed: int = 0) -> None:
        check_range(self, at_least=1, num_signals=num_signals)
        super().__init__(every_n_iterations, num_signals, seed)
        self.num_signals = num_signals

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine the folder's path; refuse data that are not series."""
        super().setup(trainer, pl_module, stage)
        check_signals(self, pl_module)
        require(find_datamodule(trainer), SignalData, "SignalPlot")

    def _save(self, trainer: Trainer, num_classes: int | None, samples: Tensor, file: IO[bytes]) -> None:
        real = next(iter(require(find_datamodule(trainer), SignalData, "SignalPlot").signals("val")))
        save_signals([{"validation": real[: self.num_signals].cpu()}, {"samples": samples}], file)


class SignalReconstructions(Reconstructions):
    """The first series of each validation, and their reconstructions as dashed black lines.

    Args:
        num_images: number of series; at least 1. A row has eight.

    Raises:
        UserError: num_images is less than 1; in `setup`, the data are not series, or the model has no reconstructions.
    """

    def _check_data(self, pl_module: LightningModule) -> None:
        check_signals(self, pl_module)

    def _save(self, images: Tensor, reconstructions: Tensor, file: IO[bytes]) -> None:
        save_signals([{"validation": images, "reconstructions": reconstructions}], file)


def check_signals(callback: Callback, pl_module: LightningModule) -> None:
    """Refuse models of data that are not series.

    Raises:
        UserError: the data of the model do not have the shape (C, T).
    """
    name = type(callback).__name__
    data_shape = require(pl_module, GenerativeModel, name).data_shape
    if len(data_shape) != 2:
        raise UserError(
            f"{name} draws series (C, T), and the data have shape {data_shape}. Choose series, or do without {name}."
        )


def save_signals(groups: Sequence[dict[str, Tensor]], file: IO[bytes]) -> None:
    """Draw one or two groups of series beside each other as a PNG file, eight series a row.

    Args:
        groups: series `[N, C, T]` of each group by name; those of a second name are drawn over the first ones,
            dashed and black
        file: the file
    """
    # Matplotlib is slow to import, and most runs do not need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 8 // len(groups)
    rows = max(-(-len(series) // columns) for group in groups for series in group.values())
    figure = Figure(figsize=(16, 1.4 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for group, part in zip(groups, figure.subfigures(1, len(groups), squeeze=False)[0], strict=True):
        part.suptitle(", ".join(group))
        panels = part.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for overlay, series in enumerate(group.values()):
            for axes, one in zip(panels, series, strict=False):
                for channel, values in enumerate(one):
                    style, color = ("--", "black") if overlay else ("-", f"C{channel}")
                    axes.plot(values.numpy(), style, color=color, linewidth=1)
    figure.savefig(file, format="png", dpi=60)

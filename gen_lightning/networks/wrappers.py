"""Discriminators made of any other discriminator, and an encoder of any other encoder.

Each is built like the one that it wraps, `discriminator(data_shape)`, so that they nest in any order, and passes the
labels on to one that is conditional.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gen_lightning.errors import UserError
from gen_lightning.networks.augmentation import Color, Cutout, Translation
from gen_lightning.networks.conditional import find_num_classes


class SpectralNorm(nn.Module):
    """Divides the weight of every linear layer, convolution and embedding by its largest singular value.

    That is estimated by one power iteration at each pass in training mode, and kept in evaluation mode (Miyato et al.
    2018). A convolution's weight counts as the matrix `[out, in * height * width]`, as in the paper.

    Args:
        data_shape: the shape of one example
        discriminator: called with (data_shape): data `[N, *data_shape]` -> logits `[N]`

    Raises:
        UserError: a weight begins at 0, as some of R3GAN's do, and has no largest singular value to be divided by.
    """

    def __init__(self, data_shape: Sequence[int], discriminator: Callable[[Sequence[int]], nn.Module]) -> None:
        super().__init__()
        self.discriminator = discriminator(data_shape)
        for module in list(self.discriminator.modules()):
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.Embedding):
                if not module.weight.any():
                    raise UserError(
                        f"SpectralNorm divides weights by their norms, and {type(self.discriminator).__name__} has some"
                        " that begin at 0: leave SpectralNorm out, or take another discriminator."
                    )
                spectral_norm(module)

    def forward(self, data: Tensor, *condition: Tensor) -> Tensor:
        """Logits `[N]`."""
        return self.discriminator(data, *condition)


class Packing(nn.Module):
    """Judges several examples at once, all real or all generated, and so sees collapse (PacGAN, Lin et al. 2018).

    Examples that follow one another in a batch are a pack, and are joined along the first dimension of `data_shape`:
    channels of images, coordinates of points. There is one logit for each pack.

    Args:
        data_shape: the shape of one example
        discriminator: called with the shape of a pack: packs `[N, ...]` -> logits `[N]`
        degree: m, the examples in a pack, 1 or more

    Raises:
        UserError: the degree is less than 1, or the discriminator is conditional.
    """

    def __init__(
        self, data_shape: Sequence[int], discriminator: Callable[[Sequence[int]], nn.Module], degree: int = 2
    ) -> None:
        super().__init__()
        if degree < 1:
            raise UserError(f"Packing's degree is {degree}: choose 1 or more.")
        self.degree = degree
        self.discriminator = discriminator((degree * data_shape[0], *data_shape[1:]))
        if find_num_classes(self.discriminator) is not None:
            raise UserError(
                "Packing joins examples of several classes, and a conditional discriminator judges one class: leave one"
                " of the two out."
            )

    def forward(self, data: Tensor) -> Tensor:
        """Logits `[N / m]` of data `[N, *data_shape]`; in evaluation mode the first examples fill up the last pack.

        Raises:
            UserError: in training mode, N is not a multiple of m.
        """
        missing = -len(data) % self.degree
        if missing and self.training:
            raise UserError(
                f"The discriminator sees {len(data)} examples, which make no packs of {self.degree}: choose a multiple"
                " of it (times model.discriminator_steps and model.micro_batches) for data.batch_size."
            )
        if missing:
            data = data[torch.arange(len(data) + missing, device=data.device) % len(data)]
        return self.discriminator(data.unflatten(0, (-1, self.degree)).flatten(1, 2))


class DifferentiableAugmentation(nn.Module):
    """Sees all images, real and generated, through random changes (DiffAugment, Zhao et al. 2020, equations 4 to 6).

    In evaluation mode it sees them as they are.

    Args:
        data_shape: `(C, H, W)`
        discriminator: called with (data_shape): images `[N, C, H, W]` -> logits `[N]`
        augmentations: applied one after the other, images -> images; by default `Color` where there are three channels,
            `Translation` and `Cutout`, as in the paper

    Raises:
        UserError: the data are no images.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        discriminator: Callable[[Sequence[int]], nn.Module],
        augmentations: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if len(data_shape) != 3:
            raise UserError(f"DifferentiableAugmentation takes images, not data of shape {data_shape}: leave it out.")
        if augmentations is None:
            augmentations = [*([Color()] if data_shape[0] == 3 else []), Translation(), Cutout()]
        self.augmentation = nn.Sequential(*augmentations)
        self.discriminator = discriminator(data_shape)

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        """Logits `[N]`."""
        return self.discriminator(self.augmentation(images) if self.training else images, *condition)


class AugmentedEncoder(nn.Module):
    """Sees images through random changes in training mode, so that its features say nothing of what these change.

    Args:
        data_shape: `(C, H, W)`
        out_features: the number of features
        encoder: called with (data_shape, out_features): images `[N, C, H, W]` -> features `[N, out_features]`
        augmentations: applied one after the other, images -> images, such as `Affine`

    Raises:
        UserError: the data are no images.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        encoder: Callable[[Sequence[int], int], nn.Module],
        augmentations: list[nn.Module],
    ) -> None:
        super().__init__()
        if len(data_shape) != 3:
            raise UserError(f"AugmentedEncoder takes images, not data of shape {data_shape}: leave it out.")
        self.augmentation = nn.Sequential(*augmentations)
        self.encoder = encoder(data_shape, out_features)

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        """Features `[N, out_features]`."""
        return self.encoder(self.augmentation(images) if self.training else images, *condition)

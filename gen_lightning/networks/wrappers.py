"""Wrappers: discriminators around another discriminator, and an encoder around another encoder.

A wrapper is built with the same arguments as the network that it wraps, such as `discriminator(data_shape)`, so that
wrappers nest in any order. It passes labels on to a class-conditional network.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gen_lightning.checks import check_range
from gen_lightning.errors import UserError
from gen_lightning.networks.augmentation import Color, Cutout, Translation
from gen_lightning.networks.conditional import find_num_classes


class SpectralNorm(nn.Module):
    """Spectral normalization: each weight is divided by its largest singular value (Miyato et al. 2018).

    This covers every linear layer, convolution and embedding. The singular value is estimated by one power iteration in
    each forward pass in training mode, and stays fixed in evaluation mode. The weight of a convolution is treated as a
    matrix `[out, in * height * width]`, as in the paper.

    Args:
        data_shape: shape of one example
        discriminator: function of (data_shape) that returns a network, data `[N, *data_shape]` -> logits `[N]`

    Raises:
        UserError: a weight is initialized at 0, as some of R3GAN's are, and so has no positive singular value.
    """

    def __init__(self, data_shape: Sequence[int], discriminator: Callable[[Sequence[int]], nn.Module]) -> None:
        super().__init__()
        self.discriminator = discriminator(data_shape)
        for module in list(self.discriminator.modules()):
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | nn.Embedding):
                if not module.weight.any():
                    raise UserError(
                        f"SpectralNorm divides weights by their norms, and {type(self.discriminator).__name__} has"
                        " weights that are initialized at 0. Remove SpectralNorm, or choose another discriminator."
                    )
                spectral_norm(module)

    def forward(self, data: Tensor, *condition: Tensor) -> Tensor:
        """Return logits `[N]`."""
        return self.discriminator(data, *condition)


class Packing(nn.Module):
    """Packing: one logit for several examples, all real or all generated, against mode collapse (Lin et al. 2018).

    Consecutive examples of a batch form a pack. They are concatenated along the first dimension of `data_shape`: the
    channels of images, or the coordinates of points.

    Args:
        data_shape: shape of one example
        discriminator: function of the shape of a pack that returns a network, packs `[N, ...]` -> logits `[N]`
        degree: number of examples in a pack, m; at least 1

    Raises:
        UserError: degree is less than 1, or the discriminator is class-conditional.
    """

    def __init__(
        self, data_shape: Sequence[int], discriminator: Callable[[Sequence[int]], nn.Module], degree: int = 2
    ) -> None:
        super().__init__()
        check_range(self, at_least=1, degree=degree)
        self.degree = degree
        self.discriminator = discriminator((degree * data_shape[0], *data_shape[1:]))
        if find_num_classes(self.discriminator) is not None:
            raise UserError(
                "Packing joins examples of several classes, and a class-conditional discriminator takes one label per"
                " input. Remove Packing, or choose an unconditional discriminator."
            )

    def forward(self, data: Tensor) -> Tensor:
        """Return logits `[N / m]` of data `[N, *data_shape]`. In evaluation mode the first examples fill the last pack.

        Raises:
            UserError: in training mode, N is not a multiple of m.
        """
        missing = -len(data) % self.degree
        if missing and self.training:
            raise UserError(
                f"{len(data)} examples cannot be divided into packs of {self.degree}. Choose a multiple of"
                f" {self.degree} * discriminator_steps * micro_batches for data.batch_size, with drop_last=True in a"
                " data loader."
            )
        if missing:
            data = data[torch.arange(len(data) + missing, device=data.device) % len(data)]
        return self.discriminator(data.unflatten(0, (-1, self.degree)).flatten(1, 2))


class DifferentiableAugmentation(nn.Module):
    """A discriminator of augmented images, real and generated (DiffAugment, Zhao et al. 2020, equations 4 to 6).

    In evaluation mode images are not augmented.

    Args:
        data_shape: shape of one image, `(C, H, W)`
        discriminator: function of (data_shape) that returns a network, images `[N, C, H, W]` -> logits `[N]`
        augmentations: modules applied one after the other, images -> images; by default `Color` if there are three
            channels, `Translation` and `Cutout`, as in the paper

    Raises:
        UserError: data_shape is not the shape of an image.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        discriminator: Callable[[Sequence[int]], nn.Module],
        augmentations: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if len(data_shape) != 3:
            raise UserError(f"DifferentiableAugmentation needs images, and data have shape {data_shape}. Remove it.")
        if augmentations is None:
            augmentations = [*([Color()] if data_shape[0] == 3 else []), Translation(), Cutout()]
        self.augmentation = nn.Sequential(*augmentations)
        self.discriminator = discriminator(data_shape)

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        """Return logits `[N]`."""
        return self.discriminator(self.augmentation(images) if self.training else images, *condition)


class AugmentedEncoder(nn.Module):
    """An encoder of images that are augmented in training mode, so that its features do not depend on these changes.

    Args:
        data_shape: shape of one image, `(C, H, W)`
        out_features: number of features
        encoder: function of (data_shape, out_features) that returns a network, images `[N, C, H, W]` -> features
            `[N, out_features]`
        augmentations: modules applied one after the other, images -> images, such as `Affine`

    Raises:
        UserError: data_shape is not the shape of an image.
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
            raise UserError(f"AugmentedEncoder needs images, and data have shape {data_shape}. Remove it.")
        self.augmentation = nn.Sequential(*augmentations)
        self.encoder = encoder(data_shape, out_features)

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        """Return features `[N, out_features]`."""
        return self.encoder(self.augmentation(images) if self.training else images, *condition)

"""Frozen feature extractors: a small CNN, as trained on MNIST or on other data, and Inception for who has it."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from gen_lightning.errors import UserError

_WEIGHTS = Path(__file__).with_name("mnist_cnn.safetensors")
# Printed by benchmarks/train_extractor.py.
_SHA256 = "ba5793e80f5d28a6c6fb5714fab3a0fa59b608ccb68e7695f29e6172daab6c18"


class FeatureExtractor(nn.Module):
    """A frozen network that judges images. It never leaves evaluation mode.

    `name` is part of the key of every metric made with it; `num_features` is the dimension of its features; `sha256` is
    that of its weights, by which, and by its class, measurements of real images are cached: change it with the code.
    """

    name: str
    num_features: int
    sha256: str

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, num_features]` of images `[N, C, H, W]` in [0, 1]."""
        raise NotImplementedError

    def probabilities(self, features: Tensor) -> Tensor:
        """Class probabilities `[N, number of classes]` of features `[N, num_features]`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stays in evaluation mode, whatever the module around it does."""
        return super().train(False)


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class DigitClassifier(nn.Module):
    """A convolutional classifier of 28 x 28 grey images in ten classes, with 64 penultimate features."""

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _convolution(16, 32),
            _convolution(32, 64),
            nn.MaxPool2d(2),
            _convolution(64, 64),
            _convolution(64, self.num_features),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.num_features, 10)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features `[N, 64]` of images `[N, 1, 28, 28]` (or 32 x 32, padded) in [0, 1]."""
        if images.shape[1] != 1 or images.shape[2:] not in ((28, 28), (32, 32)):
            raise UserError(
                f"This extractor judges grey images of 28 x 28 or 32 x 32, not {tuple(images.shape[1:])}:"
                " choose another extractor."
            )
        margin = (images.shape[-1] - 28) // 2
        return self.body(images[..., margin : margin + 28, margin : margin + 28])

    def forward(self, images: Tensor) -> Tensor:
        """Class logits `[N, 10]`."""
        return self.head(self.features(images))


class ClassifierFeatures(FeatureExtractor):
    """The penultimate features of a `DigitClassifier` of one's own, from `benchmarks/train_extractor.py`.

    Args:
        weights: the path of its safetensors file, whose name without the ending is the extractor's

    Raises:
        UserError: there is no such file, or it holds something else.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        path = Path(weights)
        if not path.is_file():
            raise UserError(f"There are no weights at {path}: make them by benchmarks.train_extractor.")
        content = path.read_bytes()
        self.name = path.stem
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.classifier = DigitClassifier()
        self.num_features = self.classifier.num_features
        try:
            self.classifier.load_state_dict(load_safetensors(content))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{path} does not hold the weights of a DigitClassifier: make them by benchmarks.train_extractor."
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, 64]` of grey images `[N, 1, 28, 28]` (or 32 x 32, padded) in [0, 1]."""
        return self.classifier.features(images)

    def probabilities(self, features: Tensor) -> Tensor:
        """Probabilities `[N, 10]` of the classes."""
        return self.classifier.head(features).softmax(1)


class MNISTFeatures(ClassifierFeatures):
    """The 64 penultimate features of `DigitClassifier`, trained on MNIST's official training split.

    Its weights ship with the package; `benchmarks/train_extractor.py` makes them and prints their test accuracy.

    Raises:
        UserError: the file of the weights is not the one that was published.
    """

    def __init__(self) -> None:
        super().__init__(str(_WEIGHTS))
        if self.sha256 != _SHA256:
            raise UserError(f"{_WEIGHTS} is not the published file (its SHA-256 differs): install the package anew.")


class InceptionFeatures(FeatureExtractor):
    """The 2,048 features of the Inception network that FID was defined with (Heusel et al. 2017).

    Needs the extra `gen_lightning[inception]`, and torch-fidelity's file `weights-inception-2015-12-05-6726825d.pth`.

    Args:
        weights: the path of that file

    Raises:
        UserError: the file or the extra is absent.
    """

    name = "inception"
    num_features = 2048

    def __init__(self, weights: str) -> None:
        super().__init__()
        if not Path(weights).is_file():
            raise UserError(f"There are no Inception weights at {weights}: give the path of torch-fidelity's file.")
        self.sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
        except ModuleNotFoundError as error:
            raise UserError("Inception needs torch-fidelity: pip install 'gen_lightning[inception]'.") from error
        except Exception as error:
            # Whatever another file makes of the unpickler, the user is to know which one it is.
            raise UserError(f"{weights} does not hold torch-fidelity's Inception weights: give its file.") from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, 2048]` of images `[N, C, H, W]` in [0, 1], C = 1 or 3, resized to 299 x 299 within."""
        colour = images.expand(-1, 3, -1, -1)
        return self.network((colour.clamp(0, 1) * 255).round().to(torch.uint8))

    def probabilities(self, features: Tensor) -> Tensor:
        """Probabilities `[N, 1008]` of ImageNet's classes, without the bias, as in the Inception Score's code."""
        return (features @ self.network.fc.weight.T).softmax(1)

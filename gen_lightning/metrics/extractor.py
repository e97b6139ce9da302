"""Frozen feature extractors: a small CNN, trained on MNIST or on other data, and Inception with a local file."""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from gen_lightning.errors import UserError

_WEIGHTS = Path(__file__).with_name("mnist_cnn.safetensors")
# Printed by benchmarks/train_extractor.py.
_SHA256 = "ba5793e80f5d28a6c6fb5714fab3a0fa59b608ccb68e7695f29e6172daab6c18"


DESCRIPTION = "classifier"
"""The key of a safetensors file's metadata under which `train_extractor` describes the classifier, as JSON."""


class FeatureExtractor(nn.Module):
    """A frozen network that extracts features of images and classifies them. It never leaves evaluation mode."""

    name: str
    """Name of the extractor, which is a part of the name of every metric that is computed with it."""
    num_features: int
    """Dimension of the features, D."""
    classifies: bool = True
    """Whether the class probabilities are those of classes of the data; without them, classes are not measured."""
    sha256: str
    """Digest of the weights. Features of real images are cached by the class and this digest: change it with the code.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, D]` of images `[N, C, H, W]` in [0, 1]."""
        raise NotImplementedError

    def predict_probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities `[N, number of classes]` of features `[N, D]`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode, also when the surrounding module is switched to training mode."""
        return super().train(False)


def _build_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class DigitClassifier(nn.Module):
    """A convolutional classifier of 28 x 28 grey images into ten classes, with 64 penultimate features."""

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _build_convolution(16, 32),
            _build_convolution(32, 64),
            nn.MaxPool2d(2),
            _build_convolution(64, 64),
            _build_convolution(64, self.num_features),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.num_features, 10)

    def extract_features(self, images: Tensor) -> Tensor:
        """Return penultimate features `[N, 64]` of images `[N, 1, 28, 28]` in [0, 1], or padded to 32 x 32."""
        if images.shape[1] != 1 or images.shape[2:] not in ((28, 28), (32, 32)):
            raise UserError(
                f"The images have shape {tuple(images.shape[1:])}, but the extractor takes grey images of 28 x 28 or"
                " 32 x 32. Train one for these images with `python train.py train_extractor`."
            )
        margin = (images.shape[-1] - 28) // 2
        return self.body(images[..., margin : margin + 28, margin : margin + 28])

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits `[N, 10]`."""
        return self.head(self.extract_features(images))


class ImageClassifier(nn.Module):
    """A convolutional classifier of images of at least 16 x 16, with 64 penultimate features.

    Each stage halves the size, until it is below 8.

    Args:
        data_shape: shape of one image, `(C, H, W)`
        num_classes: number of classes; at least 2
    """

    num_features = 64

    def __init__(self, data_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        num_stages = int(math.log2(min(self.data_shape[1:]))) - 2
        layers: list[nn.Module] = [_build_convolution(self.data_shape[0], 16)]
        for stage in range(num_stages):
            widths = [min(16 * 2**depth, self.num_features) for depth in (stage, stage + 1)]
            layers += [nn.MaxPool2d(2), _build_convolution(*widths), _build_convolution(widths[1], widths[1])]
        last = _build_convolution(widths[1], self.num_features)
        self.body = nn.Sequential(*layers, last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(self.num_features, num_classes)

    def extract_features(self, images: Tensor) -> Tensor:
        """Return penultimate features `[N, 64]` of images `[N, C, H, W]` in [0, 1]."""
        if images.shape[1:] != self.data_shape:
            raise UserError(
                f"The images have shape {tuple(images.shape[1:])}, and the extractor was trained on images of shape"
                f" {self.data_shape}. Train one for these data with `python train.py train_extractor`."
            )
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits `[N, number of classes]`."""
        return self.head(self.extract_features(images))


class ClassifierFeatures(FeatureExtractor):
    """The penultimate features of a classifier that `train.py train_extractor` has trained.

    Without labels, the classes are four rotations of each image; then `classifies` is false.

    Args:
        weights: path of the classifier's safetensors file; its name without the ending becomes the extractor's name

    Raises:
        UserError: the file does not exist, or does not hold the weights of a classifier.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        path = Path(weights)
        if not path.is_file():
            raise UserError(
                f"There are no weights at {path}. Train an extractor with `python train.py train_extractor`."
            )
        content = path.read_bytes()
        self.name = path.stem
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self.classifier, self.classifies = _load_classifier(content, path)
        except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"{path} does not hold the weights of a classifier. Train an extractor with"
                " `python train.py train_extractor`."
            ) from error
        self.num_features = self.classifier.num_features
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, 64]` of images in [0, 1] that have the shape of the training images."""
        return self.classifier.extract_features(images)

    def predict_probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities `[N, number of classes]` of features `[N, 64]`."""
        return self.classifier.head(features).softmax(1)


def _load_classifier(content: bytes, path: Path) -> tuple[DigitClassifier | ImageClassifier, bool]:
    """Return the classifier in a file, and whether its classes are those of the data."""
    tensors = load_safetensors(content)
    with safe_open(path, "pt") as file:
        description = json.loads((file.metadata() or {}).get(DESCRIPTION, "{}"))
    classifier: DigitClassifier | ImageClassifier = DigitClassifier()
    if description:
        channels, height, width = shape = [int(size) for size in description["data_shape"]]
        # A stranger's file may describe a network that fits in no memory.
        if not (1 <= channels <= 16 and 16 <= min(height, width) <= max(height, width) <= 1024):
            raise ValueError(shape)
        classifier = ImageClassifier(shape, len(tensors["head.bias"]))
    classifier.load_state_dict(tensors)
    return classifier, not description or description["task"] == "classes"


class MNISTFeatures(ClassifierFeatures):
    """The 64 penultimate features of a `DigitClassifier` that is trained on MNIST's official training split.

    The weights ship with the package. `benchmarks/train_extractor.py` trains them and prints their test accuracy.

    Raises:
        UserError: the weights are not the published ones.
    """

    def __init__(self) -> None:
        super().__init__(str(_WEIGHTS))
        if self.sha256 != _SHA256:
            raise UserError(f"{_WEIGHTS} is not the published file: its SHA-256 differs. Reinstall the package.")


@contextmanager
def _write_plain_copy(content: bytes) -> Iterator[str]:
    """Write the tensors of a file of torch's to a temporary file that holds nothing else, and yield its path.

    torch-fidelity 0.4 unpickles the file that it is given, which would run code that a stranger may have put there.
    """
    tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save(tensors, path)
        yield str(path)


class InceptionFeatures(FeatureExtractor):
    """The 2,048 features of the Inception network that defines the FID (Heusel et al. 2017).

    It needs the extra `gen_lightning[inception]` and torch-fidelity's file `weights-inception-2015-12-05-6726825d.pth`.

    Args:
        weights: path of torch-fidelity's file

    Raises:
        UserError: the file does not exist or holds something else, or the extra is not installed.
    """

    name = "inception"
    num_features = 2048

    def __init__(self, weights: str) -> None:
        super().__init__()
        if not Path(weights).is_file():
            raise UserError(f"There are no Inception weights at {weights}. Give the path of torch-fidelity's file.")
        content = Path(weights).read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            with _write_plain_copy(content) as copy:
                self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], copy)
        except ModuleNotFoundError as error:
            raise UserError(
                "torch-fidelity, which Inception needs, is not installed. Run `pip install 'gen_lightning[inception]'`."
            ) from error
        except Exception as error:
            # The unpickler raises any kind of exception for another file. The sentence names the file.
            raise UserError(
                f"{weights} does not hold torch-fidelity's Inception weights. Give the path of its file."
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[N, 2048]` of images `[N, C, H, W]` in [0, 1], C = 1 or 3, after resizing to 299 x 299."""
        colour = images.expand(-1, 3, -1, -1)
        return self.network((colour.clamp(0, 1) * 255).round().to(torch.uint8))

    def predict_probabilities(self, features: Tensor) -> Tensor:
        """Return probabilities `[N, 1008]` of ImageNet's classes, without the bias, as the Inception Score does."""
        return (features @ self.network.fc.weight.T).softmax(1)

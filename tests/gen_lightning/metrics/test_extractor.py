"""The extractors: published weights, evaluation mode, accuracy on digits, and the files that they refuse."""

import pytest
import torch
from safetensors.torch import save

from datamodules.sources import load
from gen_lightning.metrics import ClassifierFeatures, InceptionFeatures, MNISTFeatures, extractor


def test_the_weights_take_at_most_a_mebibyte_of_the_package():
    assert extractor._WEIGHTS.stat().st_size <= 2**20


def test_the_test_accuracy_on_real_mnist_is_at_least_994_per_mille(mnist_root):
    from pathlib import Path

    _, test = load("mnist", Path(mnist_root))
    classifier = MNISTFeatures().classifier
    with torch.no_grad():
        logits = torch.cat([classifier(images.float() / 255) for images in test.data.split(1000)])
    assert (logits.argmax(1) == test.labels).float().mean() >= 0.994


def test_padding_does_not_change_the_features():
    images = torch.rand(3, 1, 28, 28)
    features = MNISTFeatures()
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    assert torch.equal(features(images), features(padded))
    assert features(images).shape == (3, features.num_features)


def test_the_extractor_stays_in_evaluation_mode_without_gradients():
    host = torch.nn.ModuleList([MNISTFeatures()]).train()
    assert not any(module.training for module in host[0].modules())
    assert not any(parameter.requires_grad for parameter in host.parameters())


def test_features_of_an_image_do_not_depend_on_the_batch():
    images = torch.rand(6, 1, 28, 28)
    features = MNISTFeatures()
    torch.testing.assert_close(features(images)[:1], features(images[:1]))


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    changed = tmp_path / "mnist_cnn.safetensors"
    content = bytearray(extractor._WEIGHTS.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    monkeypatch.setattr(extractor, "_WEIGHTS", changed)
    with pytest.raises(ValueError, match=r"SHA-256"):
        MNISTFeatures()


def test_the_probabilities_are_those_of_the_classifier():
    images, features = torch.rand(5, 1, 28, 28), MNISTFeatures()
    probabilities = features.predict_probabilities(features(images))
    torch.testing.assert_close(probabilities, features.classifier(images).softmax(1))


def test_an_extractor_has_the_name_of_its_weights_file(tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(extractor._WEIGHTS.read_bytes())
    mine, images = ClassifierFeatures(str(path)), torch.rand(2, 1, 28, 28)
    assert (mine.name, mine.sha256) == ("mine", MNISTFeatures().sha256)
    assert torch.equal(mine(images), MNISTFeatures()(images))


def test_missing_files_and_files_of_other_content_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no weights at nowhere\.safetensors"):
        ClassifierFeatures("nowhere.safetensors")
    for content in (b"text", save({"x": torch.zeros(1)})):
        (tmp_path / "other.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="does not hold the weights of a classifier"):
            ClassifierFeatures(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 64, 64)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="Train one for these images"):
        MNISTFeatures()(torch.rand(2, *shape))


def test_missing_inception_weights_are_refused_with_their_path():
    with pytest.raises(ValueError, match=r"no Inception weights at nowhere\.pth"):
        InceptionFeatures("nowhere.pth")


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Return a file in torch-fidelity's format with random weights, because the real one must be downloaded."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None)
        network = FeatureExtractorInceptionV3("any", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_loads_a_local_file_and_takes_grey_and_colour_images(inception_weights):
    features = InceptionFeatures(str(inception_weights))
    torch.manual_seed(0)
    grey = torch.rand(2, 1, 28, 28)
    assert features(grey).shape == (2, features.num_features)
    assert torch.equal(features(grey), features(grey.expand(-1, 3, -1, -1)))
    probabilities = features.predict_probabilities(features(grey))
    assert probabilities.shape == (2, 1008)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))

"""train_extractor: it learns classes or rotations, its file describes itself, and unfit data are refused."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import train
from cli.extractor import NUM_ROTATIONS, rotate_randomly, train_extractor
from datamodules import ArrayDataModule
from gen_lightning.errors import UserError
from gen_lightning.evaluation import get_extractor_path, measure
from gen_lightning.metrics import ClassifierFeatures, ImageClassifier


def write_squares(path, labelled, n=400):
    """Write colour images with a bright quarter, whose place is the label; the first quarter alone without labels."""
    labels = np.arange(n) % 4
    images = np.random.default_rng(0).integers(0, 60, (n, 3, 16, 16)).astype(np.uint8)
    for image, label in zip(images, labels * labelled, strict=True):
        row, column = divmod(int(label), 2)
        image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 150
    np.savez(path, data=images, labels=labels * labelled)
    return str(path)


@pytest.mark.parametrize(("labelled", "task"), [(True, "classes"), (False, "rotations")])
def test_it_learns_classes_or_rotations(labelled, task, tmp_path):
    data = ArrayDataModule(write_squares(tmp_path / "squares.npz", labelled))
    output = tmp_path / "squares_cnn.safetensors"
    train_extractor(data, epochs=8, seed=0, output=output)
    with safe_open(output, "pt") as file:
        description = json.loads(file.metadata()["classifier"])
    assert description["task"] == task
    assert description["data_shape"] == [3, 16, 16]
    assert description["accuracy"] > 0.9
    extractor = ClassifierFeatures(str(output))
    assert extractor.classifies == labelled
    real = torch.cat([extractor(images) for images in data.images("train")])
    names = measure(extractor, real[:160], real[160:], real[160:]).keys()
    assert ("class_balance" in names) == labelled
    assert "fid" in names


def test_equal_seeds_give_equal_weights(tmp_path):
    path = write_squares(tmp_path / "squares.npz", labelled=True)
    outputs = []
    for index, seed in enumerate((0, 0, 1)):
        torch.rand(index)
        output = tmp_path / f"{index}.safetensors"
        train_extractor(ArrayDataModule(path), 1, seed, output)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_rotation_is_what_its_label_says():
    images = torch.arange(24 * 16, dtype=torch.uint8).view(24, 1, 4, 4)
    rotated, multiples = rotate_randomly(images, torch.zeros(24))
    assert set(multiples.tolist()) == set(range(NUM_ROTATIONS))
    for image, result, multiple in zip(images, rotated, multiples, strict=True):
        assert torch.equal(result, image.rot90(int(multiple), (1, 2)))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 28, 28), (3, 64, 64), (1, 20, 96), (3, 256, 256)])
def test_the_classifier_refuses_other_shapes(shape):
    classifier = ImageClassifier(shape, 5).eval()
    assert classifier(torch.rand(2, *shape)).shape == (2, 5)
    assert classifier.extract_features(torch.rand(2, *shape)).shape == (2, 64)
    with pytest.raises(UserError, match="was trained on images of shape"):
        classifier(torch.rand(2, shape[0], shape[1] + 1, shape[2]))


@pytest.mark.parametrize(
    "description",
    [
        *('{"data_shape": [3, 16]}', '{"data_shape": [3, 1000000, 1000000]}', '{"data_shape": [99999999, 16, 16]}'),
        *('{"data_shape": "abc"}', '{"data_shape": [3, 4, 4]}', '{"data_shape": null}', "[1]", "{", "7", "{}"),
        '{"data_shape": [3, 16, 16]}',
    ],
)
def test_a_file_that_describes_no_classifier_is_refused(description, tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"head.bias": torch.zeros(4)}, path, {"classifier": description})
    with pytest.raises(UserError, match="does not hold the weights of a classifier"):
        ClassifierFeatures(str(path))


@pytest.mark.parametrize(("shape", "dtype"), [((3, 8, 8), np.uint8), ((3, 16, 20), np.uint8)])
def test_images_that_are_too_small_or_cannot_be_rotated_are_refused(shape, dtype, tmp_path):
    np.save(tmp_path / "file.npy", np.random.default_rng(0).integers(0, 255, (50, *shape)).astype(dtype))
    with pytest.raises(UserError, match="needs at least 16 x 16, and squares"):
        train_extractor(ArrayDataModule(str(tmp_path / "file.npy")), 1, 0, tmp_path / "x")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(50) - 1, "one whole number of 0 or more"),
        (np.arange(50) * 1000, "Number the classes from 0"),
    ],
)
def test_labels_that_are_not_classes_are_refused(labels, message, tmp_path):
    np.savez(tmp_path / "file.npz", data=np.zeros((50, 3, 16, 16), np.uint8), labels=labels)
    with pytest.raises(UserError, match=message):
        train_extractor(ArrayDataModule(str(tmp_path / "file.npz")), 1, 0, tmp_path / "x")


def test_equal_labels_are_no_classes(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 16, 16)).astype(np.uint8)
    np.savez(tmp_path / "file.npz", data=images, labels=np.full(50, 3))
    train_extractor(ArrayDataModule(str(tmp_path / "file.npz")), 1, 0, tmp_path / "x.safetensors")
    assert "4 rotations" in capsys.readouterr().out


def test_data_without_images_are_refused(tmp_path):
    np.save(tmp_path / "file.npy", np.random.default_rng(0).normal(size=(50, 3)))
    with pytest.raises(UserError, match="train_extractor needs a data module with whole splits of images"):
        train_extractor(ArrayDataModule(str(tmp_path / "file.npy")), 1, 0, tmp_path / "x")


@pytest.mark.slow
def test_the_test_subcommand_uses_the_trained_extractor(fit, tmp_path, capsys):
    path = write_squares(tmp_path / "squares.npz", labelled=True, n=1200)
    data = ["--data=datamodules.ArrayDataModule", f"--data.path={path}", "--data.batch_size=16"]
    networks = [
        f"--model.{name}=gen_lightning.networks.MLP{kind}"
        for name, kind in (("generator", "Decoder"), ("discriminator", "Discriminator"))
    ]
    options = ["--trainer.logger=false", "--trainer.callbacks=null", "--trainer.max_steps=3"]
    run = fit("--config=gan/dcgan", *data, *networks, *options)
    checkpoint = f"--ckpt_path={run / 'checkpoints/last.ckpt'}"
    train.main(["train_extractor", checkpoint, "--epochs=2"])
    with pytest.raises(SystemExit):
        train.main(["train_extractor", checkpoint])
    assert "exists already. Add --overwrite" in capsys.readouterr().err
    train.main(["test", checkpoint])
    name = get_extractor_path(ArrayDataModule(path).identity).stem
    assert f"fid/{name}" in capsys.readouterr().out

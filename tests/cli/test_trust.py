"""A stored configuration names nothing but trusted classes; a stranger's checkpoint runs no code."""

import copy
import inspect
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import CONFIGS, write_images

import train
from callbacks import SafeWandbLogger
from cli.recipes import find_recipe, list_recipes
from cli.trust import StoredConfig, allowed_objects
from datamodules import ArrayDataModule, ImageFolderDataModule, TableDataModule, TextDataModule
from datamodules.array_files import remember
from gen_lightning.errors import UserError
from gen_lightning.metrics import InceptionFeatures

VAE = yaml.safe_load((CONFIGS / "vae/vae.yaml").read_text())
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "sentinel"]}}
CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


def check(config, trusted=(), options=None):
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    return StoredConfig(text, "last.ckpt", trusted, options).values


def change(keys: str, value):
    """Return the VAE's configuration with another value at a path of keys, in which a number is an index."""
    config = copy.deepcopy(VAE)
    node, *rest = config, *keys.split("/")
    for key in rest[:-1]:
        node = node[int(key) if isinstance(node, list) else key]
    node[int(rest[-1]) if isinstance(node, list) else rest[-1]] = value
    return config


def linear(**arguments):
    return {"class_path": "torch.nn.Linear", "init_args": {"out_features": 784, **arguments}}


def checkpoint(**arguments):
    return {"class_path": CHECKPOINT, "init_args": arguments}


def logger(class_path="callbacks.SafeWandbLogger", **arguments):
    return {"class_path": class_path, "init_args": arguments}


DECODER, ACTIVATION, CALLBACK = "model/init_args/decoder", "model/init_args/decoder/init_args", "trainer/callbacks/0"
ATTACKS = {
    "a class in an untyped argument": (DECODER, linear(device=POPEN), "model.decoder.device", "subprocess"),
    "the same as YAML text": (DECODER, linear(device=yaml.safe_dump(POPEN)), "model.decoder.device", "torch.nn.Linear"),
    "the same in a list": (DECODER, linear(device=[[POPEN]]), "model.decoder.device.0.0", "subprocess"),
    "the same in a mapping": (DECODER, linear(device={"a": {"b": POPEN}}), "model.decoder.device.a.b", "subprocess"),
    "the same as further arguments": (
        DECODER,
        linear() | {"dict_kwargs": POPEN},
        "decoder.dict_kwargs",
        "torch.nn.Linear",
    ),
    "a function for a callable": (ACTIVATION, {"initialization": "os.system"}, "decoder.initialization", "os"),
    "eval": (ACTIVATION, {"initialization": "builtins.eval"}, "decoder.initialization", "builtins"),
    "torch.load": (ACTIVATION, {"initialization": "torch.load"}, "decoder.initialization", "torch"),
    "torch.hub.load": (DECODER, {"class_path": "torch.hub.load"}, "model.decoder", "torch"),
    "a module's import": (DECODER, {"class_path": "antigravity.X"}, "model.decoder", "antigravity"),
    "a short name": (DECODER, {"class_path": "Linear"}, "model.decoder", None),
    "a short name alone": (DECODER, "InceptionFeatures", "model.decoder", None),
    "a name through a module": (DECODER, {"class_path": "callbacks.loggers.os.system"}, "model.decoder", "callbacks"),
    "torch's classes through a module": (
        DECODER,
        {"class_path": "datamodules.sources.datasets.MNIST"},
        "model.decoder",
        "datamodules",
    ),
    "a class that is no part of a recipe": (DECODER, {"class_path": "torch.nn.Sequential"}, "model.decoder", "torch"),
    "a package whose name begins alike": (
        DECODER,
        {"class_path": "gen_lightning_evil.X"},
        "model.decoder",
        "gen_lightning_evil",
    ),
    "a key with dots": (DECODER, {"class_path.x": "subprocess.Popen"}, "model.decoder.class_path.x", "subprocess"),
    "a key of jsonargparse": (DECODER, linear(__path__="evil.yaml"), "model.decoder.__path__", None),
    "a configuration file": (DECODER, "evil.yaml", "model.decoder", "evil"),
    "a class path that is null": (DECODER, {"class_path": None}, "model.decoder", None),
    "a file name that is a list": (CALLBACK, checkpoint(filename=["../x"]), "callbacks.0.filename", CHECKPOINT),
    "a class path that is no text": (DECODER, {"class_path": ["os.system"]}, "model.decoder", None),
    "arguments that are no mapping": (
        DECODER,
        {"class_path": "torch.nn.Linear", "init_args": [POPEN]},
        "model.decoder.init_args",
        "torch.nn.Linear",
    ),
    "a checkpoint elsewhere": (CALLBACK, checkpoint(dirpath="/tmp"), "trainer.callbacks.0.dirpath", CHECKPOINT),
    "a file name with a parent": (CALLBACK, checkpoint(filename="../../x"), "trainer.callbacks.0.filename", CHECKPOINT),
    "an absolute file name": (CALLBACK, checkpoint(filename="/tmp/x"), "trainer.callbacks.0.filename", CHECKPOINT),
    "an absolute metric in a file name": (
        CALLBACK,
        checkpoint(filename="{/tmp/x}"),
        "callbacks.0.filename",
        CHECKPOINT,
    ),
    "an attribute in a file name": (CALLBACK, checkpoint(filename="{a.__class__}"), "callbacks.0.filename", CHECKPOINT),
    "a logger as a callback": (CALLBACK, logger("callbacks.MetricsCSV"), "trainer.callbacks.0", "callbacks"),
    "a W&B logger as a callback": (CALLBACK, logger(), "trainer.callbacks.0", "callbacks"),
    "another logger": (
        "trainer/logger",
        logger("lightning.pytorch.loggers.CSVLogger", save_dir="/tmp"),
        "trainer.logger",
        "lightning",
    ),
    "another server": (
        "trainer/logger",
        logger(base_url="http://evil"),
        "trainer.logger.base_url",
        "callbacks.SafeWandbLogger",
    ),
    "settings": ("trainer/logger", logger(settings=POPEN), "trainer.logger.settings", "callbacks.SafeWandbLogger"),
    "another account": (
        "trainer/logger",
        [logger(entity="evil")],
        "trainer.logger.0.entity",
        "callbacks.SafeWandbLogger",
    ),
    "an upload of the code": (
        "trainer/logger",
        logger(save_code=True),
        "trainer.logger.save_code",
        "callbacks.SafeWandbLogger",
    ),
    "a class as the project": ("trainer/logger", logger(project=POPEN), "trainer.logger.project", "subprocess"),
    "a plugin": ("trainer/plugins", [POPEN], "trainer.plugins.0", "subprocess"),
    "a profiler": (
        "trainer/profiler",
        {"class_path": "lightning.pytorch.profilers.SimpleProfiler"},
        "trainer.profiler",
        "lightning",
    ),
    "a strategy": (
        "trainer/strategy",
        {"class_path": "lightning.pytorch.strategies.DDPStrategy"},
        "trainer.strategy",
        "lightning",
    ),
    "a strategy's name": ("trainer/strategy", "DDPStrategy", "trainer.strategy", None),
    "a server of models": ("trainer/model_registry", "evil", "trainer.model_registry", None),
    "a key of the trainer with dots": ("trainer/logger.init_args", POPEN, "trainer.logger.init_args", "subprocess"),
    "data by a function": ("data/class_path", "os.system", "data", "os"),
    "a date": (ACTIVATION, {"hidden_dims": [yaml.safe_load("2001-01-01")]}, "decoder.hidden_dims.0", None),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_sentence_names_what_is_not_trusted_its_option_and_trust(attack):
    keys, value, option, package = ATTACKS[attack]
    with pytest.raises(UserError) as refusal:
        check(change(keys, value))
    sentence = str(refusal.value)
    assert sentence.startswith("The configuration in last.ckpt sets `--")
    assert f"{option}` to " in sentence
    assert package is None or sentence.endswith(f"is not trusted. If you trust its author, add --trust {package}.")


NESTED = "[" * 5000 + "]" * 5000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\nb: &b {<<: [*a, *a]}\n"
MALFORMED = {
    "a list": "[1]",
    "null": "null",
    "nothing": "",
    "a number": "3",
    "no YAML": "{",
    "a tag": "!!python/object/apply:os.system [touch sentinel]",
    "another tag": "model: !!binary aaaa",
    "deep": NESTED,
    "deep within": f"model: {NESTED}",
    "a date that does not exist": "model: 2001-99-99",
    "a huge number": f"model: {'9' * 10_000}",
    "no model": yaml.safe_dump({name: VAE[name] for name in ("data", "trainer")}),
    "a model that is a list": yaml.safe_dump(VAE | {"model": [1]}),
    "a trainer that is null": yaml.safe_dump(VAE | {"trainer": None}),
    "data without a class": yaml.safe_dump(VAE | {"data": {}}),
    "an unknown option": yaml.safe_dump(VAE | {"trust": ["os"]}),
    "a cycle": yaml.safe_dump(VAE)
    .replace("initialization: null", "initialization: &x [*x]")
    .replace("seed_everything: 0", "seed_everything: &x [*x]"),
    "many aliases": BOMB + yaml.safe_dump(VAE | {"seed_everything": "SEED"}).replace("SEED", "*i"),
    "merge keys": MERGES + yaml.safe_dump(VAE),
    "too long": yaml.safe_dump(VAE) + "#" * 1_000_001,
    "a control character": "model: \0",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_configuration_is_refused_in_a_sentence_that_names_the_file(case):
    with pytest.raises(
        UserError, match=r"^The configuration in last\.ckpt .{15,150}Pass a checkpoint written by train\.py\.$"
    ):
        check(MALFORMED[case])


@pytest.mark.parametrize("config", [None, 3, b"model: 1", ["model"], {"model": 1}, torch.zeros(2)], ids=str)
def test_a_configuration_that_is_no_text_is_refused(config):
    with pytest.raises(UserError, match=r"The configuration in last\.ckpt is not a text"):
        StoredConfig(config, "last.ckpt", ())


@pytest.mark.parametrize("recipe", list_recipes())
def test_every_recipe_is_trusted(recipe):
    config = yaml.safe_load(Path(find_recipe(recipe)).read_text())
    # A run of the recipe leaves this trace; a path outside the working directory is dropped without it.
    remember(Path(config["data"]["init_args"].get("path", "unnamed")))
    values = check(config)
    assert values["model"] == fill_arguments(config["model"])
    assert values["data"] == fill_arguments(config["data"])
    assert values["trainer"]["callbacks"] == fill_arguments(config["trainer"]["callbacks"])


def fill_arguments(node):
    """Return a configuration in which every class has arguments."""
    if isinstance(node, list):
        return [fill_arguments(one) for one in node]
    if not isinstance(node, dict):
        return node
    filled = {key: fill_arguments(value) for key, value in node.items()}
    return {"init_args": {}, **filled} if "class_path" in node else filled


def test_only_the_options_that_a_verb_uses_are_kept_and_checked():
    config = change("trainer/plugins", [POPEN])
    assert check(config, options=("callbacks",))["trainer"].keys() == {"callbacks"}
    assert check(config, options=())["trainer"] == {}


def test_of_a_logger_nothing_is_kept_that_says_where_it_logs_to():
    arguments = {"project": "mine", "mode": "online", "tags": ["a"], "save_dir": "/tmp", "name": "x", "id": "y"}
    config = change("trainer/logger", logger(**arguments, entity=None, offline=False, prefix=""))
    kept = check(config)["trainer"]["logger"]
    assert kept == logger(project="mine", mode="online", tags=["a"])


def test_every_argument_of_the_logger_of_this_project_is_kept():
    own = set(inspect.signature(SafeWandbLogger).parameters) - {"kwargs"}
    assert own == {"project", "mode", *(name for name in own if name.endswith("_timeout"))}
    arguments = {name: 1.0 for name in own if name.endswith("_timeout")} | {"project": "a", "mode": "offline"}
    assert check(change("trainer/logger", logger(**arguments)))["trainer"]["logger"] == logger(**arguments)


def test_the_options_of_the_run_are_not_taken_from_the_configuration():
    config = change("trainer/default_root_dir", "/tmp") | {
        "name": "../x",
        "weights_only": False,
        "ckpt_path": "http://x",
    }
    values = check(config)
    assert not values.keys() & {"name", "weights_only", "ckpt_path"}
    assert "default_root_dir" not in values["trainer"]


@pytest.mark.parametrize("root", ["/", "../x", "~/.ssh", "data/../../x", "/dev/null", "a\0b/.."])
def test_a_data_directory_elsewhere_that_holds_no_data_is_not_kept(root):
    assert "root" not in check(change("data/init_args/root", root.replace("\0", "")))["data"]["init_args"]


def test_data_directories_within_the_working_directory_or_with_data_are_kept(tmp_path):
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for root in ("data", "my/data", str(tmp_path)):
        assert check(change("data/init_args/root", root))["data"]["init_args"]["root"] == root


def test_colour_data_are_downloaded_only_to_a_directory_that_holds_some(tmp_path):
    def check_root(root):
        data = {"class_path": "datamodules.ColourDataModule", "init_args": {"source": "cifar10", "root": str(root)}}
        return check(VAE | {"data": data})["data"]["init_args"].get("root")

    assert check_root("data") == "data"
    assert check_root(tmp_path) is None
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert check_root(tmp_path) == str(tmp_path)


def test_an_array_elsewhere_is_read_only_if_the_user_has_named_it(tmp_path):
    def check_path(path):
        data = {"class_path": "datamodules.ArrayDataModule", "init_args": {"path": str(path)}}
        return check(VAE | {"data": data})["data"]["init_args"].get("path")

    np.save(tmp_path / "table.npy", np.zeros((30, 2)))
    for path in ("/etc/passwd", "../x.npy", "~/x.npy", tmp_path / "table.npy"):
        assert check_path(path) is None
    assert check_path("table.npy") == "table.npy"
    ArrayDataModule(str(tmp_path / "table.npy")).setup("fit")
    assert check_path(tmp_path / "table.npy") == str(tmp_path / "table.npy")


def test_a_table_elsewhere_is_read_only_if_the_user_has_named_it(tmp_path):
    def check_path(path):
        data = {"class_path": "datamodules.TableDataModule", "init_args": {"path": str(path), "test_path": str(path)}}
        arguments = check(VAE | {"data": data})["data"]["init_args"]
        return arguments.get("path"), arguments.get("test_path")

    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "1,x\n2,y\n" * 20)
    for path in ("/etc/passwd", "../x.csv", "~/x.csv", "http://example.org/x.csv", table):
        assert check_path(path) in [(None, None), (path, path)]
        assert check_path(path) == (None, None) or path.startswith("http")
    assert check_path("table.csv") == ("table.csv", "table.csv")
    TableDataModule(str(table), test_path=str(table)).setup("fit")
    assert check_path(table) == (str(table), str(table))


def test_a_text_elsewhere_is_read_only_if_the_user_has_named_it(tmp_path):
    def check_path(path):
        data = {"class_path": "datamodules.TextDataModule", "init_args": {"path": str(path)}}
        return check(VAE | {"data": data})["data"]["init_args"].get("path")

    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {number}\n" for number in range(30)))
    for other in ("/etc/passwd", "../lines.txt", path):
        assert check_path(other) is None
    assert check_path("lines.txt") == "lines.txt"
    TextDataModule(str(path)).setup("fit")
    assert check_path(path) == str(path)


def image_folder(root):
    return VAE | {"data": {"class_path": "datamodules.ImageFolderDataModule", "init_args": {"root": root}}}


def test_a_stored_image_folder_elsewhere_needs_earlier_use(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = write_images(tmp_path / "pictures", 20)
    for root in ("/", "../x", "~", "~/Pictures", "a/../../x", "/dev", "a\0b/..", str(pictures)):
        assert "root" not in check(image_folder(root.replace("\0", "")))["data"]["init_args"]
    for root in (None, "pictures", "my/pictures"):
        assert check(image_folder(root))["data"]["init_args"]["root"] == root
    ImageFolderDataModule(str(pictures)).prepare_data()
    assert check(image_folder(str(pictures)))["data"]["init_args"]["root"] == str(pictures)
    assert "root" not in check(image_folder(str(tmp_path)))["data"]["init_args"]
    with pytest.raises(UserError, match=r"data\.root` to subprocess\.Popen, which is not trusted"):
        check(image_folder(POPEN))


def test_a_file_is_never_read_in_place_of_a_class_or_a_word(tmp_path, monkeypatch):
    """jsonargparse reads a file whose name is the value of an option, whatever its name is."""
    monkeypatch.chdir(tmp_path)
    tanh = {"class_path": "gen_lightning.networks.MLPDecoder", "init_args": {"activation": "torch.nn.Tanh"}}
    for keys, value, name in ((DECODER, tanh, "torch.nn.Tanh"), ("trainer/strategy", "ddp", "ddp")):
        config = change(keys, value)
        assert check(config)
        (tmp_path / name).write_text(yaml.safe_dump(POPEN))
        with pytest.raises(UserError, match=f"is {name} in last.ckpt, and a file of that name would be read"):
            check(config)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own that creates a file when it is imported."""
    (tmp_path / "my_package.py").write_text(
        "import os, subprocess\nfrom gen_lightning.networks import MLPDecoder\nopen('sentinel', 'w').close()\n"
        "class Net(MLPDecoder):\n    def __init__(self, latent_dim, shape, weights: str = ''):\n"
        "        super().__init__(latent_dim, shape)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "my_package"
    sys.modules.pop("my_package", None)


def test_trust_adds_a_package_and_nothing_else(package, tmp_path):
    net = change(DECODER, {"class_path": "my_package.Net", "init_args": {"weights": "/x/y.pt"}})
    for trusted in ((), ("my",), ("my_packag",), ("",), ("my_package.Other",)):
        with pytest.raises(UserError, match="--trust my_package"):
            check(net, trusted)
    assert not (tmp_path / "sentinel").exists()
    for trusted in (("my_package",), ("my_package.Net",), ("other", "my_package")):
        assert check(net, trusted)["model"]["init_args"]["decoder"] == net["model"]["init_args"]["decoder"]
    for name, home in (("my_package.os.system", "posix.system"), ("my_package.subprocess.Popen", "subprocess.Popen")):
        with pytest.raises(UserError, match=f"to {home}, which is not trusted"):
            check(change(DECODER, {"class_path": name}), ("my_package",))
    with pytest.raises(UserError, match=r"model\.decoder\.weights` to subprocess\.Popen"):
        check(change(DECODER, {"class_path": "my_package.Net", "init_args": {"weights": POPEN}}), ("my_package",))


def test_trust_of_a_class_allows_all_its_arguments():
    for keys, value in (
        (CALLBACK, checkpoint(dirpath="/x")),
        ("trainer/logger", logger(entity="x")),
    ):
        config = change(keys, value)
        assert check(config, (value["class_path"],)) != check(VAE)


def test_no_trusted_class_takes_a_value_that_is_untyped_or_any():
    """What a class of this project does with an argument is known from its type."""
    names = [name for name, found in allowed_objects().items() if isinstance(found, type)]
    assert len(names) > 150
    assert not {"callbacks.MetricsCSV", "callbacks.SafeWandbLogger", "callbacks.AtomicCheckpointIO"} & set(names)


class Code:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch sentinel",)


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
@pytest.mark.parametrize("wrap", [lambda code: code, lambda code: {"Conv2d_1a_3x3.conv.weight": code}])
def test_weights_of_inception_run_no_code(save, wrap, tmp_path, monkeypatch):
    pytest.importorskip("torch_fidelity")
    monkeypatch.chdir(tmp_path)
    with open("weights.pth", "wb") as file:
        save(wrap(Code()), file)
    with pytest.raises(UserError, match=r"weights\.pth does not hold torch-fidelity's Inception weights"):
        InceptionFeatures("weights.pth")
    assert not Path("sentinel").exists()


@pytest.mark.slow
def test_no_verb_runs_the_code_of_a_strangers_checkpoint(fit, package, tmp_path, capsys):
    """The user's own run goes on without a word; a run with classes of the user's own needs --trust."""
    small = ["--data.source=digits", "--data.batch_size=256", "--trainer.limit_val_batches=0"]
    small += ["--trainer.logger=false"]
    run = fit("--config=vae/vae", *small, "--trainer.max_steps=1", "--trainer.callbacks=null")
    fit(f"--resume={run}", "--trainer.max_steps=2")
    file = run / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    for decoder in (linear(device=POPEN), {"class_path": "my_package.Net"}):
        stored = yaml.safe_load(content["config"])
        stored["model"]["init_args"]["decoder"] = decoder
        torch.save(content | {"config": yaml.safe_dump(stored)}, file)
        for verb in ("validate", "test", "sample", "fit"):
            with pytest.raises(SystemExit) as end:
                train.main([verb, f"--resume={run}" if verb == "fit" else f"--ckpt_path={file}"])
            assert end.value.code == 2
            error = capsys.readouterr().err
            assert error.count("train.py: The configuration in ") == 1
            assert "Traceback" not in error
            assert "--trust " in error
    assert not (tmp_path / "sentinel").exists()
    fit(
        "--config=vae/vae",
        *small,
        "--trainer.max_steps=1",
        "--trainer.callbacks=null",
        "--model.decoder=my_package.Net",
    )
    own = max(tmp_path.glob("runs/vae/*"), key=lambda path: "my_package" in (path / "config.yaml").read_text())
    with pytest.raises(SystemExit):
        fit(f"--resume={own}", "--trainer.max_steps=2")
    fit(f"--resume={own}", "--trainer.max_steps=2", "--trust=my_package")
    assert torch.load(own / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert "trust" not in yaml.safe_load((own / "config.yaml").read_text())

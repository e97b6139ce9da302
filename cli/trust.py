"""What the configuration stored in a checkpoint may name: a checkpoint is data, and a stranger may have written it.

jsonargparse imports any class path and passes any argument to it. So a stored configuration is checked as plain data
before jsonargparse sees it. It may name the classes of this project and a short list of torch's and Lightning's, at
every depth, with numbers, texts and further such classes as arguments. `--trust PACKAGE` adds the classes of a package,
with any argument. The user's own options and `--config` files are not checked.

jsonargparse 4.53 has a list of allowed import paths, but it is a setting of the process that cannot be lifted for the
user's own options, and it does not look at arguments.
"""

import inspect
import os
import pkgutil
import re
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

import callbacks
import datamodules
import gen_lightning
import gen_lightning.gan
import gen_lightning.metrics
import gen_lightning.networks.mlp
import gen_lightning.optimizers
import gen_lightning.schedules
import gen_lightning.vae
from callbacks import SafeWandbLogger
from datamodules import (
    ArrayDataModule,
    ColourDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    TableDataModule,
    TextDataModule,
)
from datamodules.array_files import get_marker
from datamodules.image_files import find_index
from gen_lightning.errors import UserError

PACKAGES = (
    gen_lightning,
    gen_lightning.gan,
    gen_lightning.metrics,
    gen_lightning.networks,
    gen_lightning.networks.mlp,
    gen_lightning.optimizers,
    gen_lightning.schedules,
    gen_lightning.vae,
    datamodules,
)
"""A stored configuration may name every class of these packages, and the callbacks in `callbacks`."""

NAMES = {
    torch.nn: "AdaptiveAvgPool2d AvgPool2d BatchNorm1d BatchNorm2d CELU Conv2d ConvTranspose2d Dropout Dropout2d ELU"
    " Flatten GELU GroupNorm Hardswish Hardtanh Identity InstanceNorm2d LayerNorm LeakyReLU Linear LogSigmoid MaxPool2d"
    " Mish PReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus Softsign Tanh Upsample",
    torch.nn.init: "kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_ trunc_normal_ uniform_ xavier_normal_"
    " xavier_uniform_ zeros_",
    torch.optim: "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop SGD",
    lightning_callbacks: "DeviceStatsMonitor EarlyStopping LearningRateMonitor ModelCheckpoint ModelSummary"
    " TQDMProgressBar Timer",
}
"""The other classes and functions that a stored configuration may name; none of them reads or runs a file."""

OPTIONS = ("seed_everything", "float32_matmul_precision", "checkpoint", "trainer", "model", "data")
"""The options that are taken from a stored configuration."""

REPLACED_OPTIONS = {"name", "resume", "ckpt_path", "weights_only", "trainer.default_root_dir"}
"""The options that the run's directory and the command line decide, whatever is stored."""

LOGGER_OPTIONS = {*inspect.signature(SafeWandbLogger).parameters, "group", "job_type", "notes", "tags"} - {"kwargs"}
"""Options of the W&B logger that are taken from a stored configuration; servers, accounts and paths are not."""

REPLACED_LOGGER_OPTIONS = {"name", "save_dir", "id"}
"""Options of the W&B logger that follow from the run's directory."""

NO_WORDS = {"trainer.callbacks", "trainer.plugins", "trainer.model_registry", "model", "data"}
"""Options whose value names a class or a server if it is one word."""

# A configuration of this project has about 5,000 characters.
MAX_LENGTH = 1_000_000
MAX_NODES = 50_000
MAX_DEPTH = 50

# Text with metrics in braces, such as "best-{epoch:02d}-{val/fid:.2f}".
FILE_NAME = re.compile(r"(?:[\w=., -]|\{\w[\w/]*(?::\d{0,2}(?:\.\d{1,2})?[a-z]?)?\})+")
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
# Text that is neither an import path nor a mapping.
UNTYPED_TEXT = re.compile(rf"(?!{IMPORT_PATH.pattern}$)[\w /:@+=,.-]*")
WORD = re.compile(r"[a-z0-9_:.,-]*")
ADVICE = "Pass a checkpoint written by train.py."


class PlainLoader(yaml.SafeLoader):
    """Reads YAML without merge keys, which a few lines could make expand to gigabytes."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave merge keys in the mapping, where no constructor accepts them."""


def read_plain_yaml(text: Any, source: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: YAML
        source: the file that holds it, for the error

    Raises:
        UserError: it is no text, is too long, is nested too deeply, or is no YAML.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise UserError(f"The configuration in {source} is not a text of at most {MAX_LENGTH:,} characters. {ADVICE}")
    try:
        return yaml.load(text, PlainLoader)
    except RecursionError:
        raise UserError(f"The configuration in {source} is nested too deeply. {ADVICE}") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError) as error:
        # The constructors of YAML's numbers and dates raise others than YAMLError.
        raise UserError(f"The configuration in {source} is not valid YAML. {ADVICE}") from error


class StoredConfig:
    """The configuration in a checkpoint, in which nothing but trusted classes and plain values is left.

    Args:
        text: the configuration, YAML
        source: path of the checkpoint
        trusted: packages, modules or classes that the user trusts, as prefixes of class paths
        options: names of the Trainer's options to keep; default: all

    Raises:
        UserError: the configuration is malformed, or names something that is not trusted.
    """

    def __init__(
        self, text: Any, source: str | Path, trusted: Sequence[str], options: Sequence[str] | None = None
    ) -> None:
        self.source = str(source)
        self.trusted = tuple(trusted)
        self._nodes = 0
        stored = read_plain_yaml(text, self.source)
        check_sections(stored, self.source)
        stored = {option: stored[option] for option in OPTIONS if option in stored}
        if options is not None:
            stored["trainer"] = {name: stored["trainer"][name] for name in options if name in stored["trainer"]}
        self.values = {option: self._check_option(option, value) for option, value in stored.items()}

    def add_shape(self, shape: Any) -> None:
        """Add the shape of the model's data to a data module that would read it from a file, which may be missing."""
        data = self.values.get("data")
        sizes = list(shape) if isinstance(shape, list | tuple) else []
        if isinstance(data, dict) and sizes and all(type(size) is int for size in sizes):
            arguments = data["init_args"]
            if "shape" in arguments and arguments["shape"] is None:
                arguments["shape"] = sizes

    def dump(self) -> str:
        """Return the configuration as YAML."""
        text = yaml.safe_dump(self.values)
        if os.path.exists(text):
            raise UserError(f"A file has the configuration in {self.source} as its name. Remove the file.")
        return text

    def _check_option(self, option: str, value: Any) -> Any:
        if option != "trainer":
            return self._check_word(value, option)
        return {
            self._check_key(name, option): self._check_trainer_option(name, one)
            for name, one in value.items()
            if f"trainer.{name}" not in REPLACED_OPTIONS
        }

    def _check_trainer_option(self, name: str, value: Any) -> Any:
        option = f"trainer.{name}"
        if name != "logger":
            return self._check_word(value, option)
        if isinstance(value, list):
            return [self._check_logger(one, f"{option}.{index}") for index, one in enumerate(value)]
        return self._check_logger(value, option)

    def _check_word(self, value: Any, option: str) -> Any:
        """Return a value that may also be a lower-case word, such as `ddp`, which is no class path."""
        if not isinstance(value, str) or not WORD.fullmatch(value) or option in NO_WORDS:
            return self._check_value(value, option, None, None)
        self._check_no_file(value, option)
        return value

    def _check_logger(self, value: Any, option: str) -> Any:
        """Return a logger; of an untrusted W&B logger, only what does not say where it logs to."""
        class_path = value.get("class_path") if isinstance(value, dict) else None
        if class_path not in list(name_objects([SafeWandbLogger])) or self._is_trusted(class_path):
            return self._check_value(value, option, None, None)
        defaults = inspect.signature(WandbLogger).parameters
        kept = {}
        for name, argument in self._get_arguments(value, option).items():
            default = defaults[name].default if name in defaults else None
            if name in LOGGER_OPTIONS:
                kept[name] = self._check_value(argument, f"{option}.{name}", str, class_path)
            elif name not in REPLACED_LOGGER_OPTIONS and argument is not None and argument != default:
                self._refuse(f"{option}.{name}", argument, class_path)
        return {"class_path": class_path, "init_args": kept}

    def _check_value(self, value: Any, option: str, annotation: Any, owner: str | None, depth: int = 0) -> Any:
        """Return a copy of a value.

        Args:
            value: anything that YAML can hold
            option: the option as the user would type it
            annotation: type of the argument
            owner: class path of the object that receives the value
            depth: number of containers around the value
        """
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise UserError(f"The configuration in {self.source} is too deep or too large. {ADVICE}")
        if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
            return value
        if isinstance(value, str):
            return self._check_text(value, option, annotation, owner)
        if isinstance(value, list):
            return [
                self._check_value(one, f"{option}.{index}", annotation, owner, depth + 1)
                for index, one in enumerate(value)
            ]
        if isinstance(value, dict) and "class_path" in value:
            return self._check_class(value, option, depth)
        if isinstance(value, dict):
            return {
                self._check_key(key, option): self._check_value(one, f"{option}.{key}", None, owner, depth + 1)
                for key, one in value.items()
            }
        return self._refuse(option, value, owner)

    def _check_class(self, value: dict[Any, Any], option: str, depth: int) -> dict[str, Any]:
        class_path = value["class_path"]
        if not isinstance(class_path, str):
            self._refuse(option, class_path, None)
        if (untrusted := self._find_untrusted(class_path)) is not None:
            self._refuse(option, untrusted, None)
        annotations = read_annotations(class_path)
        arguments = {
            self._check_key(name, option): self._check_value(
                one, f"{option}.{name}", annotations.get(name), class_path, depth + 1
            )
            for name, one in self._get_arguments(value, option).items()
        }
        if not self._is_trusted(class_path):
            self._restrict_paths(class_path, arguments, option)
        return {"class_path": class_path, "init_args": arguments}

    def _get_arguments(self, value: dict[Any, Any], option: str) -> dict[Any, Any]:
        """Return the arguments of a class; `dict_kwargs` would pass any others."""
        for key in value.keys() - {"class_path", "init_args"}:
            self._refuse(f"{option}.{key}", value[key], value["class_path"])
        arguments = value.get("init_args") or {}
        if not isinstance(arguments, dict):
            self._refuse(f"{option}.init_args", arguments, value["class_path"])
        return arguments

    def _check_text(self, text: str, option: str, annotation: Any, owner: str | None) -> str:
        if self._find_untrusted(text) is None:
            self._check_no_file(text, option)
            return text
        if accepts_text(annotation) and text.isprintable():
            return text
        if annotation is None and owner and self._is_trusted(owner) and UNTYPED_TEXT.fullmatch(text):
            self._check_no_file(text, option)
            return text
        return self._refuse(option, text, owner)

    def _check_key(self, key: Any, option: str) -> str:
        """Return the key of a mapping; jsonargparse gives names that begin with an underscore a meaning of its own."""
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z][\w.]*", key):
            self._refuse(f"{option}.{key}", "a value", None)
        return key

    def _restrict_paths(self, class_path: str, arguments: dict[str, Any], option: str) -> None:
        """Refuse paths by which a class would write outside the run's directory, and drop an unknown data directory."""
        found = find_object(class_path)
        if found is ModelCheckpoint:
            filename = arguments.get("filename")
            if arguments.get("dirpath") is not None:
                self._refuse(f"{option}.dirpath", arguments["dirpath"], class_path)
            if filename is not None and (not FILE_NAME.fullmatch(str(filename)) or ".." in str(filename)):
                self._refuse(f"{option}.filename", filename, class_path)
        if issubclass(found, MNISTDataModule | ColourDataModule) and not may_hold_data(arguments.get("root")):
            del arguments["root"]
        if issubclass(found, ArrayDataModule | TableDataModule | TextDataModule):
            for name in ("path", "val_path", "test_path"):
                if not may_be_read(arguments.get(name), get_marker):
                    del arguments[name]
        if issubclass(found, ImageFolderDataModule) and not may_be_read(arguments.get("root"), find_index):
            del arguments["root"]

    def _check_no_file(self, text: str, option: str) -> None:
        # jsonargparse takes a value that names a file for a configuration file, whatever its name is.
        if text and os.path.isfile(text):
            raise UserError(
                f"`--{option}` is {text} in {self.source}, and a file of that name would be read in its place. Rename"
                " the file, or change to another directory."
            )

    def _find_untrusted(self, name: str) -> str | None:
        """Return the name under which a class or function is not trusted; None if it is trusted."""
        if name in allowed_objects():
            return None
        if not self._is_trusted(name):
            return name
        found = find_object(name)
        home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
        # A trusted module may have imported others, such as os.
        same = home.partition(".")[0] == name.partition(".")[0]
        return None if found is None or same or self._is_trusted(home) or home in allowed_objects() else home

    def _is_trusted(self, name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in self.trusted)

    def _refuse(self, option: str, value: Any, owner: str | None) -> NoReturn:
        is_path = isinstance(value, str) and IMPORT_PATH.fullmatch(value)
        package = value.partition(".")[0] if is_path else owner
        advice = f"If you trust its author, add --trust {package}." if package else ADVICE
        shown = make_printable(value if isinstance(value, str) else f"a {type(value).__name__}")
        raise UserError(
            f"The configuration in {self.source} sets `--{make_printable(option)}` to {shown}, which is not trusted."
            f" {advice}"
        )


def make_printable(text: str) -> str:
    """Return the beginning of a stranger's text, without characters that control the terminal."""
    return "".join(one if one.isprintable() else " " for one in text[:100])


def check_sections(stored: Any, source: str) -> None:
    """Check the outermost level of a stored configuration.

    Raises:
        UserError: it has no model, data or Trainer, or an option that no run stores.
    """
    described = isinstance(stored, dict) and all(
        isinstance(stored.get(name), dict) for name in ("model", "data", "trainer")
    )
    if not described or not all(isinstance(stored[name].get("class_path"), str) for name in ("model", "data")):
        raise UserError(f"The configuration in {source} does not describe a model, data and a trainer. {ADVICE}")
    for option in stored:
        if option not in OPTIONS and option not in REPLACED_OPTIONS:
            raise UserError(
                f"The configuration in {source} has an unknown option {make_printable(str(option))}. {ADVICE}"
            )


def may_hold_data(root: Any) -> bool:
    """Return whether data may be read from a stored directory, and downloaded to it if they are missing.

    Data are not downloaded to a directory outside the working directory that holds none.
    """
    if is_within_working_directory(root):
        return True
    with suppress(OSError, ValueError):
        return any(any(Path(root).glob(pattern)) for pattern in ("*/raw", "cifar-*", "*_32x32.mat"))
    return False


def may_be_read(path: Any, get_trace: Callable[[Path], Path]) -> bool:
    """Return whether data may be read from a stored path.

    Outside the working directory, only a path that the user has named before may be: it has left a trace in the cache.

    Args:
        path: the path; None if unset
        get_trace: function that returns the file in the cache for a path
    """
    if is_within_working_directory(path):
        return True
    with suppress(OSError, ValueError, RuntimeError):
        return get_trace(Path(path)).is_file()
    return False


def is_within_working_directory(root: Any) -> bool:
    """Return whether a stored directory is relative and does not lead out of the working directory; True if unset."""
    if not isinstance(root, str):
        return True
    return not (os.path.isabs(root) or root.startswith("~") or ".." in Path(root).parts)


@cache
def allowed_objects() -> dict[str, Any]:
    """Return the classes and functions that a stored configuration may name, by their public and their full names."""
    objects = [
        value
        for package in PACKAGES
        for value in vars(package).values()
        if isinstance(value, type) and value.__module__.partition(".")[0] in ("gen_lightning", "datamodules")
    ]
    objects += [value for value in vars(callbacks).values() if isinstance(value, type) and issubclass(value, Callback)]
    objects += [getattr(module, name) for module, names in NAMES.items() for name in names.split()]
    return name_objects(objects)


def name_objects(objects: Sequence[Any]) -> dict[str, Any]:
    """Return objects by name: that of their module, and those of the packages that offer them."""
    named = {f"{one.__module__}.{one.__qualname__}": one for one in objects}
    identities = {id(one) for one in objects}
    for module in (*PACKAGES, *NAMES, callbacks):
        named |= {f"{module.__name__}.{name}": one for name, one in vars(module).items() if id(one) in identities}
    return named


def find_object(name: str) -> Any:
    """Return what an allowed or trusted name stands for, imported if it must be; None if there is no such thing."""
    if name in allowed_objects():
        return allowed_objects()[name]
    with suppress(ImportError, AttributeError, ValueError):
        return pkgutil.resolve_name(name)
    return None


def read_annotations(name: str) -> dict[str, Any]:
    """Return the types of the arguments of a class or function, those of its base classes included."""
    found = find_object(name)
    constructors = [vars(one).get("__init__") for one in reversed(found.__mro__)] if inspect.isclass(found) else [found]
    annotations: dict[str, Any] = {}
    for constructor in constructors:
        # Names that are imported for type checkers alone cannot be resolved.
        with suppress(NameError, TypeError, AttributeError):
            annotations |= get_type_hints(constructor)
    return annotations


def accepts_text(annotation: Any) -> bool:
    """Return whether an argument takes text that jsonargparse does not take for a class, a function or a file."""
    leaves = set(list_leaves(annotation))
    return bool(leaves & {str, timedelta}) and leaves <= {str, timedelta, Path, int, float, bool, type(None)}


def list_leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types within a union or container."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield from map(type, get_args(annotation))
    elif origin in (Union, types.UnionType, list, tuple, dict, Sequence):
        for part in get_args(annotation):
            yield from list_leaves(part)
    else:
        yield annotation

"""Loggers: what a run writes to W&B, and that W&B never stops a run."""

import csv
import inspect
import json
import os
import pty
import socket
import subprocess
import sys
from collections import defaultdict

import pytest
from helpers import CONFIGS, ROOT, read_wandb_records, run_command

from callbacks import SafeWandbLogger
from gen_lightning.errors import UserError

ARGUMENTS = [
    "fit",
    "--config",
    str(CONFIGS / "vae/vae.yaml"),
    "--data.source=digits",
    "--data.batch_size=256",
    "--trainer.max_epochs=2",
    "--trainer.log_every_n_steps=2",
    "--trainer.enable_progress_bar=false",
]


def only_run(folder):
    (run,) = folder.glob("runs/*/*")
    return run


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    """The directory of a VAE's run without any W&B configuration."""
    folder = tmp_path_factory.mktemp("offline")
    environment = {key: "" for key in os.environ if key.startswith("WANDB_")}
    finished = run_command(*ARGUMENTS, cwd=folder, **environment)
    assert finished.returncode == 0, finished.stderr
    return only_run(folder)


@pytest.mark.slow
class TestOfflineFile:
    @pytest.fixture
    def history(self, offline_run):
        """The logged values, by key and iteration."""
        values = defaultdict(dict)
        for record in read_wandb_records(offline_run):
            row = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for key, value in row.items():
                values[key][json.loads(row["trainer/global_step"])] = json.loads(value)
        return values

    def test_metrics_and_images_share_one_axis_of_iterations(self, history):
        assert list(history["train/elbo"]) == [2, 4, 6, 8]
        assert list(history["val/elbo"]) == [4, 8]
        assert list(history["val/fid/mnist_cnn/240"]) == [4, 8]
        assert list(history["samples.filenames"]) == [8]
        assert list(history["reconstructions.filenames"]) == [4, 8]

    def test_the_images_are_those_in_the_run_directory(self, offline_run):
        media = {path.read_bytes() for path in offline_run.glob("wandb/offline-run-*/files/media/images/*.png")}
        written = [
            path.read_bytes()
            for folder in ("samples", "reconstructions", "interpolations", "traversals")
            for path in offline_run.glob(f"{folder}/*.png")
        ]
        assert len(written) == 5
        assert media == set(written)

    def test_images_seen_are_logged_with_the_iterations(self, history):
        assert history["images_seen"] == {iteration: 256 * iteration for iteration in (2, 4, 6, 8)}

    def test_the_whole_configuration_is_logged(self, offline_run):
        config = {}
        for record in read_wandb_records(offline_run):
            for update in (*record.config.update, *record.run.config.update):
                config[".".join(update.nested_key) or update.key] = json.loads(update.value_json)
        assert config["seed_everything"] == 0
        assert config["data"]["init_args"]["batch_size"] == 256
        assert config["model"]["class_path"] == "gen_lightning.VAEModule"
        assert config["trainer"]["max_epochs"] == 2

    def test_the_final_metrics_are_in_the_summary(self, offline_run, history):
        summary = {}
        for record in read_wandb_records(offline_run):
            for update in record.summary.update:
                summary[".".join(update.nested_key) or update.key] = json.loads(update.value_json)
        assert summary["val/elbo"] == history["val/elbo"][8]

    def test_the_csv_has_the_same_values(self, offline_run, history):
        lines = [line.split(",") for line in (offline_run / "metrics.csv").read_text().splitlines()]
        rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
        elbos = {int(row["step"]): float(row["val/elbo"]) for row in rows if row["val/elbo"]}
        assert elbos == history["val/elbo"]


@pytest.mark.slow
def test_online_without_a_key_trains_offline_and_asks_for_nothing(tmp_path):
    """The process has a terminal, at which W&B would ask for the key."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    ours, theirs = pty.openpty()
    process = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *ARGUMENTS],
        cwd=tmp_path,
        env=environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    os.close(ours)
    assert process.returncode == 0
    assert "no API key is configured" in process.stdout
    assert read_wandb_records(only_run(tmp_path))


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_given_up(tmp_path):
    """The server accepts the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        finished = run_command(
            *ARGUMENTS,
            "--trainer.logger.init_timeout=3",
            cwd=tmp_path,
            WANDB_MODE="online",
            WANDB_BASE_URL=url,
            WANDB_API_KEY="0" * 40,
        )
    assert finished.returncode == 0, finished.stderr
    assert f"Waiting for W&B's server {url}, for at most 3 s." in finished.stderr
    assert "Logging offline" in finished.stderr
    assert "litlogger" not in finished.stderr
    assert read_wandb_records(only_run(tmp_path))


def test_the_default_wait_for_a_server_is_20_seconds():
    assert inspect.signature(SafeWandbLogger).parameters["init_timeout"].default == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KILL", "STOP"])
def test_a_service_that_dies_or_freezes_does_not_stop_the_run(tmp_path, name):
    finished = run_command(
        *ARGUMENTS,
        "--trainer.logger.call_timeout=1",
        "--trainer.logger.finish_timeout=1",
        f"--trainer.callbacks+={{class_path: helpers.SignalsWandbService, init_args: {{name: {name}}}}}",
        cwd=tmp_path,
        PYTHONPATH=str(ROOT / "tests"),
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("W&B's service has died") == 1
    assert "Traceback" not in finished.stderr
    with (only_run(tmp_path) / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/elbo"]] == ["2", "4", "6", "8"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_MODE", "nonsense"),
        ("WANDB_BASE_URL", "nonsense"),
        ("WANDB_BASE_URL", "http://"),
        ("WANDB_INIT_TIMEOUT", "x"),
        ("WANDB_CONSOLE", "x"),
    ],
)
def test_a_wrong_variable_is_refused_in_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refusal:
        SafeWandbLogger()
    advice = {"WANDB_MODE": ". Choose online, offline or disabled."}
    expected = advice.get(name, ", which W&B refuses. Correct the variable, or unset it.")
    assert str(refusal.value) == f"`{name}` is {value}{expected}"


def test_a_wrong_project_is_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"`--trainer\.logger\.project` is a/b, which W&B refuses"):
        SafeWandbLogger("a/b")


@pytest.mark.parametrize("obstacle", ["a file in its place", "a file in its parent's place"])
def test_a_directory_that_cannot_be_written_does_not_stop_the_run(tmp_path, obstacle):
    """W&B itself would write to TMPDIR."""
    place = tmp_path / "run" if obstacle == "a file in its parent's place" else tmp_path / "run/wandb"
    place.parent.mkdir(exist_ok=True)
    place.touch()
    logger = SafeWandbLogger(save_dir=str(tmp_path / "run"), mode="offline")
    with pytest.warns(
        UserWarning, match=r"run/wandb cannot be written: a file is in the place of its directory\. The run"
    ):
        logger.log_metrics({"a": 1}, 1)
    logger.log_metrics({"a": 2}, 2)
    assert logger.experiment.disabled

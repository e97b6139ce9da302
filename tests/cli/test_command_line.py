"""The command line: the files that each verb writes, resumed runs, and reports."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from helpers import CONFIGS, ROOT, load, read_wandb_records, run_command, run_until, vae
from lightning.pytorch.profilers import SimpleProfiler
from PIL import Image

import train
from cli.checkpoints import newest_checkpoint
from cli.command_line import CommandLine
from cli.report import describe_likelihood
from cli.runs import RunFolder
from cli.trainer import NoProfiler, cycle_labels
from datamodules import MNISTDataModule
from gen_lightning.metrics import MNISTFeatures
from gen_lightning.vae import Gaussian

# These tests train through the command line.
pytestmark = pytest.mark.slow

DCGAN, VAE, MLP = (["--config", str(CONFIGS / recipe)] for recipe in ("gan/dcgan.yaml", "vae/vae.yaml", "gan/mlp.yaml"))
DIGITS = ["--data.source=digits", "--data.batch_size=256", "--trainer.logger=false"]


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory):
    """A run of the VAE on the command line."""
    folder = tmp_path_factory.mktemp("vae")
    finished = run_command("fit", *VAE, *DIGITS[:2], "--trainer.max_epochs=2", "--model.latent_dim=6", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    (run,) = folder.glob("runs/vae/*")
    return run


@pytest.fixture(scope="module")
def gan_checkpoint(tmp_path_factory):
    """A checkpoint of the DCGAN at 32 x 32, alone in its directory."""
    folder = tmp_path_factory.mktemp("gan")
    arguments = [*DCGAN, *DIGITS, "--trainer.max_steps=1", "--data.image_size=32", "--trainer.limit_val_batches=0"]
    finished = run_command("fit", *arguments, cwd=folder)
    assert finished.returncode == 0, finished.stderr
    (run,) = folder.glob("runs/dcgan/*")
    alone = folder / "alone" / "model.ckpt"
    alone.parent.mkdir()
    shutil.copy(run / "checkpoints" / "last.ckpt", alone)
    return alone


class TestFit:
    def test_writes_all_files_of_a_run(self, vae_run):
        for name in ("config.yaml", "metrics.csv", "metrics.json", "summary.txt", "checkpoints/last.ckpt"):
            assert (vae_run / name).is_file(), name
        assert (vae_run / "checkpoints/best.ckpt").is_file()
        assert (vae_run / "samples/iteration_0000008.png").is_file()
        assert (vae_run / "reconstructions/iteration_0000004.png").is_file()

    def test_the_config_holds_the_given_options(self, vae_run):
        config = yaml.safe_load((vae_run / "config.yaml").read_text())
        assert config["model"]["init_args"]["latent_dim"] == 6
        assert config["data"]["init_args"]["batch_size"] == 256
        assert config["trainer"]["max_epochs"] == 2

    def test_the_files_in_the_summary_exist(self, vae_run):
        summary = (vae_run / "summary.txt").read_text()
        assert "FID (val/fid/mnist_cnn/240):" in summary
        for line in summary.splitlines():
            for word in line.replace(",", "").split():
                if word.startswith("runs/"):
                    assert (vae_run.parents[2] / word).exists(), word

    def test_a_second_run_never_overwrites_the_first(self, fit):
        arguments = [*MLP, *DIGITS, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
        first = fit(*arguments)
        before = (first / "checkpoints/last.ckpt").read_bytes()
        second = fit(*arguments)
        assert first != second
        assert (first / "checkpoints/last.ckpt").read_bytes() == before

    def test_the_seed_reaches_weights_data_and_noise(self, fit):
        arguments = [*MLP, *DIGITS, "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
        weights = [
            load(fit(*arguments, f"--seed_everything={seed}") / "checkpoints/last.ckpt")["state_dict"]
            for seed in (3, 3, 4)
        ]
        equal = [all(torch.equal(weights[0][name], other[name]) for name in weights[0]) for other in weights[1:]]
        assert equal == [True, False]

    def test_the_precision_of_products_applies_to_one_run(self, fit):
        folder = fit(*MLP, *DIGITS, "--trainer.max_steps=1", "--float32_matmul_precision=high")
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
        fit(*MLP, *DIGITS, "--trainer.max_steps=1")
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        fit("--resume", str(folder))
        assert torch.get_float32_matmul_precision() == "high"


class TestResume:
    def test_a_corrupt_checkpoint_is_skipped_and_the_run_continues_in_its_folder(self, fit):
        folder = fit(*MLP, *DIGITS, "--trainer.max_epochs=1", "--checkpoint.every_n_iterations=2")
        last = folder / "checkpoints/last.ckpt"
        last.write_bytes(last.read_bytes()[:1000])
        with pytest.warns(UserWarning, match=r"last\.ckpt is damaged"):
            assert fit("--resume", str(folder), "--trainer.max_epochs=2") is None
        assert load(last)["global_step"] == 8

    def test_checkpoints_without_optimizer_states_are_skipped(self, tmp_path, capsys):
        """A ModelCheckpoint may have saved only weights last."""
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        optimizers = [{"state": {}, "param_groups": []}]
        torch.save({"global_step": 8, "optimizer_states": optimizers}, folder / "last.ckpt")
        torch.save({"global_step": 8}, folder / "best.ckpt")
        os.utime(folder / "last.ckpt", (0, 0))
        assert newest_checkpoint(RunFolder(tmp_path))[0] == folder / "last.ckpt"
        (folder / "last.ckpt").unlink()
        with pytest.raises(ValueError, match="There is no checkpoint to resume"):
            newest_checkpoint(RunFolder(tmp_path))
        with pytest.raises(SystemExit):
            train.main(["fit", *MLP, "--ckpt_path", str(folder / "best.ckpt")])
        assert "best.ckpt holds only weights" in capsys.readouterr().err

    def test_a_finished_run_keeps_its_metrics(self, fit):
        folder = fit(*MLP, *DIGITS, "--trainer.max_epochs=1")
        before = {name: (folder / name).read_text() for name in ("metrics.json", "metrics.csv", "summary.txt")}
        fit("--resume", str(folder))
        assert {name: (folder / name).read_text() for name in before} == before

    def test_a_mistaken_override_is_not_stored(self, fit, capsys):
        folder = fit(*MLP, *DIGITS, "--trainer.max_epochs=1")
        for mistake in ("--model.latent_dim=99", "--data.batch_size=5000"):
            with pytest.raises(SystemExit):
                fit("--resume", str(folder), "--trainer.max_epochs=2", mistake)
        assert capsys.readouterr().err.count("Remove the option, or start a new run.") == 2
        fit("--resume", str(folder), "--trainer.max_epochs=2")
        assert load(folder / "checkpoints/last.ckpt")["global_step"] == 8

    def test_earlier_overrides_are_kept_and_new_ones_are_applied(self, fit):
        folder = fit(*MLP, *DIGITS, "--trainer.max_steps=1", "--model.latent_dim=5")
        fit("--resume", str(folder), "--trainer.max_steps=2", "--trainer.log_every_n_steps=1")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["model"]["init_args"]["latent_dim"] == 5
        assert (config["trainer"]["max_steps"], config["trainer"]["log_every_n_steps"]) == (2, 1)

    def test_after_sigkill_it_ends_like_the_uninterrupted_run(self, tmp_path):
        """The resumed part has the same W&B run id."""
        arguments = [
            *VAE,
            "--data.source=digits",
            "--data.batch_size=100",
            "--trainer.max_epochs=12",
            "--trainer.log_every_n_steps=1",
            "--checkpoint.every_n_iterations=5",
        ]
        reference = run_command("fit", *arguments, "--trainer.default_root_dir=reference", cwd=tmp_path)
        assert reference.returncode == 0, reference.stderr

        def has_saved(_):
            return any(tmp_path.glob("killed/*/*/checkpoints/last.ckpt"))

        run_until(has_saved, signal.SIGKILL, "fit", *arguments, "--trainer.default_root_dir=killed", cwd=tmp_path)
        (killed,) = tmp_path.glob("killed/*/*")
        stopped_at = load(killed / "checkpoints/last.ckpt")["global_step"]
        assert 0 < stopped_at < 11 * 12
        resumed = run_command("fit", "--resume", str(killed), cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        (uninterrupted,) = tmp_path.glob("reference/*/*")
        one, other = (load(folder / "checkpoints/last.ckpt") for folder in (killed, uninterrupted))
        assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
        assert (killed / "metrics.csv").read_text() == (uninterrupted / "metrics.csv").read_text()
        parts = list(killed.glob("wandb/offline-run-*/run-*.wandb"))
        assert {part.name for part in parts} == {f"run-{killed.name}.wandb"}
        assert len(parts) == 2

    def test_sigterm_saves_and_exits_as_terminated(self, tmp_path):
        arguments = ["fit", *MLP, *DIGITS, "--trainer.max_epochs=10000"]
        status = run_until(lambda output: "Epoch 3" in output, signal.SIGTERM, *arguments, cwd=tmp_path)
        assert status == 128 + signal.SIGTERM
        (checkpoint,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
        assert load(checkpoint)["global_step"] >= 12


class TestCompare:
    def test_tested_runs_are_compared_side_by_side(self, fit, tmp_path, capsys):
        arguments = ["--trainer.max_epochs=1", "--trainer.logger=false"]
        runs = [fit(*recipe, *DIGITS, *arguments) for recipe in (MLP, VAE)]
        with pytest.raises(SystemExit):
            train.main(["compare", *map(str, runs)])
        assert f"train.py test --ckpt_path {runs[0]}/checkpoints/last.ckpt" in capsys.readouterr().err
        for run in runs:
            train.main(["test", "--ckpt_path", str(run / "checkpoints/last.ckpt")])
        capsys.readouterr()
        train.main(["compare", *map(str, runs), "--output=here"])
        printed = capsys.readouterr().out
        assert all(run.name in printed for run in runs)
        assert (tmp_path / "here/comparison.md").read_text().startswith(printed.rstrip())
        assert (tmp_path / "here/comparison.png").is_file()


class TestTestAndSample:
    def test_test_needs_only_the_checkpoint(self, vae_run, tmp_path):
        finished = run_command("test", "--ckpt_path", str(vae_run / "checkpoints/last.ckpt"), cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
        assert list(tmp_path.iterdir()) == []
        metrics = json.loads((vae_run / "metrics.json").read_text())
        assert "val/elbo" in metrics["fit"]
        report = metrics["test"]
        assert {"fid/mnist_cnn", "kid/mnist_cnn", "elbo", "rate", "distortion"} <= report["metrics"].keys()
        for name, row in report["metrics"].items():
            assert row["n"] == 360
            assert name in finished.stdout
        assert report["iteration"] == metrics["fit"]["iteration"] == 8
        assert report["extractor"]["sha256"] == MNISTFeatures().sha256
        assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert (report["seed"], report["seconds"] > 0, "CPU threads" in report["hardware"]) == (0, True, True)

    def test_sigterm_ends_a_measurement(self, vae_run, tmp_path):
        """The measurement begins after the last batch and would take hours."""
        hours = [
            "--trainer.callbacks+=callbacks.ImportanceSampledLikelihood",
            "--trainer.callbacks.num_samples=1000000",
        ]
        arguments = ["test", "--ckpt_path", str(vae_run / "checkpoints/last.ckpt"), *hours]
        status = run_until(lambda output: "100%" in output, signal.SIGTERM, *arguments, cwd=tmp_path)
        assert status == 128 + signal.SIGTERM

    def test_the_rows_of_all_callbacks_are_one_report(self, vae_run, capsys):
        likelihood = ["--trainer.callbacks+=callbacks.ImportanceSampledLikelihood", "--trainer.callbacks.num_samples=2"]
        train.main(["test", "--ckpt_path", str(vae_run / "checkpoints/last.ckpt"), *likelihood])
        printed = capsys.readouterr().out
        metrics = json.loads((vae_run / "metrics.json").read_text())["test"]["metrics"]
        assert {"fid/mnist_cnn", "rate", "active_units", "knn_accuracy", "nll/2"} <= metrics.keys()
        tables = vae_run.glob("wandb/offline-run-*/files/media/table/test/report*.json")
        newest = json.loads(max(tables, key=os.path.getmtime).read_text())
        assert [row[0] for row in newest["data"]] == list(metrics)
        assert all(f"\n{name} " in printed for name in metrics)

    def test_a_test_is_logged_to_its_run(self, vae_run):
        train.main(["test", "--ckpt_path", str(vae_run / "checkpoints/last.ckpt"), "--num_samples=100"])
        records = read_wandb_records(vae_run)
        assert {record.run.run_id for record in records if record.HasField("run")} == {vae_run.name}
        rows = [
            {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            for record in records
            if record.HasField("history")
        ]
        (row,) = [row for row in rows if "test/fid/mnist_cnn/100" in row]
        assert float(row["trainer/global_step"]) == 8
        assert any("test/report" in row for row in rows)

    def test_an_extractor_is_chosen_by_its_weights(self, vae_run, tmp_path):
        before = json.loads((vae_run / "metrics.json").read_text())["test"]
        weights = tmp_path / "mine.safetensors"
        shutil.copy(ROOT / "gen_lightning/metrics/mnist_cnn.safetensors", weights)
        extractor = ["--extractor=gen_lightning.metrics.ClassifierFeatures", f"--extractor.weights={weights}"]
        train.main(["test", "--ckpt_path", str(vae_run / "checkpoints/last.ckpt"), *extractor])
        metrics = json.loads((vae_run / "metrics.json").read_text())
        report = metrics["test"]
        assert metrics["earlier_tests"][-1] == before
        assert {"fid/mine", "memorization/mine"} <= report["metrics"].keys()
        assert report["extractor"] == {"name": "mine", "sha256": MNISTFeatures().sha256}

    @pytest.mark.parametrize("verb", ["validate", "test", "sample"])
    def test_every_verb_accepts_the_config_of_a_run(self, vae_run, tmp_path, verb):
        arguments = [
            verb,
            "--config",
            str(vae_run / "config.yaml"),
            "--ckpt_path",
            str(vae_run / "checkpoints/last.ckpt"),
        ]
        output = [f"--output={tmp_path}"] if verb == "sample" else ["--trainer.logger=false"]
        train.main([*arguments, *output])

    def test_validate_repeats_the_runs_last_validation(self, vae_run):
        train.main(["validate", "--ckpt_path", str(vae_run / "checkpoints/last.ckpt")])
        metrics = json.loads((vae_run / "metrics.json").read_text())
        assert metrics["validate"]["val/elbo"] == pytest.approx(metrics["fit"]["val/elbo"], rel=1e-6)
        assert metrics["validate"]["val/fid"] == pytest.approx(metrics["fit"]["val/fid"], rel=1e-5)

    def test_sample_writes_a_grid_and_an_array(self, gan_checkpoint, tmp_path):
        for output, seed in [("a", 1), ("b", 1), ("c", 2)]:
            arguments = ["--num_samples=10", f"--output={tmp_path / output}", f"--seed={seed}"]
            train.main(["sample", "--ckpt_path", str(gan_checkpoint), *arguments])
        a, b, c = (np.load(tmp_path / name / "samples.npz")["arr_0"] for name in "abc")
        assert (a.shape, a.dtype) == ((10, 32, 32, 1), np.uint8)
        assert (a == b).all()
        assert (a != c).any()
        grid = np.asarray(Image.open(tmp_path / "a/grid.png"))
        assert (grid[2:34, 2:34, :1] == a[0]).mean() > 0.99  # save_image rounds halves otherwise

    def test_samples_outside_the_grey_values_become_black_or_white(self, fit, tmp_path):
        unbounded = "{class_path: gen_lightning.vae.Gaussian, init_args: {squash: torch.nn.Identity}}"
        grey = [*DIGITS, "--data.binarization=none", f"--model.likelihood={unbounded}", "--trainer.callbacks=null"]
        folder = fit(*VAE, *grey, "--trainer.max_steps=1", "--trainer.limit_val_batches=0")
        train.main(["sample", "--ckpt_path", str(folder / "checkpoints/last.ckpt"), "--num_samples=10"])
        array = np.load(tmp_path / "samples/samples.npz")["arr_0"].astype(int)
        grid = np.asarray(Image.open(tmp_path / "samples/grid.png"))
        assert (array == 0).mean() > 0.1
        assert abs(grid[2:30, 2:30, 0] - array[0, :, :, 0]).max() <= 1

    def test_sample_draws_the_given_classes(self, fit, tmp_path, capsys):
        recipe = ["--config", str(CONFIGS / "gan/conditional.yaml")]
        folder = fit(*recipe, *DIGITS, "--trainer.max_steps=1", "--trainer.limit_val_batches=0")

        def sample(*arguments):
            checkpoint = str(folder / "checkpoints/last.ckpt")
            train.main(["sample", "--ckpt_path", checkpoint, "--num_samples=520", "--overwrite", *arguments])
            return np.load(tmp_path / "samples/samples.npz")

        assert set(sample()["labels"]) == set(range(10))
        assert sample("--labels=3")["labels"].tolist() == [3] * 520
        repeated = sample("--labels=[7,0,1]")
        assert repeated["labels"].tolist() == ([7, 0, 1] * 174)[:520]
        assert repeated["arr_0"].shape == (520, 32, 32, 1)
        with pytest.raises(SystemExit):
            sample("--labels=10")
        assert "There is a label 10, but the model's classes are 0 to 9" in capsys.readouterr().err.splitlines()[-1]
        with pytest.raises(ValueError, match="--labels is empty"):
            cycle_labels([], 3)

    def test_samples_from_the_aggregate_posterior(self, vae_run, gan_checkpoint, tmp_path, capsys, monkeypatch):
        """Their report and their metrics' names differ from those of the prior's samples."""
        checkpoint = ["--ckpt_path", str(vae_run / "checkpoints/last.ckpt")]
        arrays = {}
        for latents in ("prior", "gmm"):
            train.main(["sample", *checkpoint, f"--latents={latents}", f"--output={tmp_path / latents}"])
            arrays[latents] = np.load(tmp_path / latents / "samples.npz")["arr_0"]
        assert (arrays["prior"] != arrays["gmm"]).any()
        # The mixture is stored in the checkpoint's directory. Other data have another mixture.
        with monkeypatch.context() as patched:
            for latents, data_options in (("other", ["--data.val_fraction=0.5"]), ("again", [])):
                train.main(["sample", *checkpoint, "--latents=gmm", f"--output={tmp_path / latents}", *data_options])
                arrays[latents] = np.load(tmp_path / latents / "samples.npz")["arr_0"]
                # A second fit would call it and fail.
                patched.setattr(MNISTDataModule, "examples", None)
        assert np.array_equal(arrays["again"], arrays["gmm"])
        assert not np.array_equal(arrays["other"], arrays["gmm"])
        assert len(list(vae_run.glob("checkpoints/gmm-*.safetensors"))) == 2
        train.main(["test", *checkpoint])
        before = json.loads((vae_run / "metrics.json").read_text())["test"]
        train.main(["test", *checkpoint, "--latents=gmm"])
        metrics = json.loads((vae_run / "metrics.json").read_text())
        assert metrics["earlier_tests"][-1] == before
        assert (before["latents"], metrics["test"]["latents"]) == ("prior", "gmm")
        assert {"fid/mnist_cnn/gmm", "elbo"} <= metrics["test"]["metrics"].keys()
        assert metrics["test"]["metrics"]["elbo"] == before["metrics"]["elbo"]
        assert metrics["test"]["likelihood"] == "a probability of 2 levels"
        with pytest.raises(SystemExit):
            train.main(["sample", "--ckpt_path", str(gan_checkpoint), "--latents=gmm"])
        assert "GANModule infers no latents to fit a mixture to. Remove --latents" in capsys.readouterr().err


def test_densities_of_dequantized_images_and_of_levels_are_different_kinds():
    model = vae(likelihood=Gaussian)
    for dequantize, kind in ((False, "a density"), (True, "a density, of dequantized images")):
        assert describe_likelihood(model, MNISTDataModule(dequantize=dequantize)) == kind


class TestPointsAndStacks:
    def test_points_are_trained_on_plotted_measured_and_sampled(self, fit, tmp_path):
        folder = fit(
            *MLP,
            "--data=datamodules.GaussianMixtureDataModule",
            "--data.mixture=datamodules.Grid",
            "--data.num_samples=1000",
            "--data.num_held_out=100",
            "--model.generator=gen_lightning.networks.MLPDecoder",
            "--trainer.callbacks=callbacks.ScatterPlot",
            "--trainer.callbacks+=callbacks.ModeCoverage",
            "--trainer.max_epochs=1",
            "--trainer.logger=false",
        )
        assert (folder / "samples/iteration_0000007.png").is_file()
        checkpoint = str(folder / "checkpoints/last.ckpt")
        train.main(["test", "--ckpt_path", checkpoint, "--num_samples=700"])
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["fit"]["val/modes/2500"] == metrics["fit"]["val/modes"]
        assert metrics["test"]["metrics"]["high_quality"]["n"] == 700
        assert len(metrics["test"]["data"]) == 64
        train.main(["sample", "--ckpt_path", checkpoint, "--num_samples=600", "--output=points"])
        points = np.load(tmp_path / "points/samples.npz")["arr_0"]
        assert (points.shape, points.dtype) == ((600, 2), np.float32)
        assert len(np.unique(points, axis=0)) == 600

    def test_the_modes_of_stacks_are_measured(self, fit, tmp_path):
        folder = fit(
            *MLP,
            "--data=datamodules.StackedMNISTDataModule",
            "--data.source=digits",
            "--trainer.callbacks=callbacks.SampleGrid",
            "--trainer.callbacks+=callbacks.ModeCoverage",
            "--trainer.callbacks.num_samples=600",
            "--trainer.max_steps=2",
            "--trainer.logger=false",
        )
        checkpoint = str(folder / "checkpoints/last.ckpt")
        train.main(["test", "--ckpt_path", checkpoint])
        assert "modes/mnist_cnn" in (folder / "metrics.json").read_text().partition('"test"')[2]
        train.main(["sample", "--ckpt_path", checkpoint, "--num_samples=9"])
        assert np.load(tmp_path / "samples/samples.npz")["arr_0"].shape == (9, 28, 28, 3)


@pytest.mark.parametrize(("options", "profiler"), [([], NoProfiler), (["--trainer.profiler=simple"], SimpleProfiler)])
def test_the_given_profiler_is_used(tmp_path, options, profiler):
    fit = ["fit", *VAE, *DIGITS, f"--trainer.default_root_dir={tmp_path}", "--trainer.fast_dev_run=true", *options]
    assert type(CommandLine(fit).trainer.profiler) is profiler

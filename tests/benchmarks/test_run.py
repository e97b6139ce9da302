"""The runner of the benchmarks: what it does, does again, and does not do again."""

import json

import pytest

import train
from benchmarks import run
from benchmarks.run import (
    Task,
    append_result,
    is_fitted,
    main,
    newest_run,
    perform,
    plan,
    read_results,
    recipes_like,
    tasks_left,
)
from cli import recipes
from cli.runs import RunFolder

RING = """
trainer: {max_steps: 3, callbacks: [{class_path: callbacks.ModeCoverage}]}
data:
  class_path: datamodules.GaussianMixtureDataModule
  init_args: {mixture: {class_path: datamodules.Ring}, num_samples: 640, num_held_out: 64, batch_size: 64}
model:
  class_path: gen_lightning.GANModule
  init_args:
    generator: {class_path: gen_lightning.networks.MLPDecoder}
    discriminator: {class_path: gen_lightning.networks.MLPDiscriminator}
    loss: {class_path: gen_lightning.gan.NonSaturating}
    generator_optimizer: {class_path: torch.optim.Adam}
    discriminator_optimizer: {class_path: torch.optim.Adam}
"""


def row(recipe="vae/vae", seed=0, source="mnist", epochs=50):
    return Task(recipe, seed, source, epochs)._asdict()


@pytest.fixture
def results(tmp_path):
    """A results file that holds the first seed of all recipes."""
    path = tmp_path / "results.jsonl"
    for recipe in recipes_like(["*"]):
        append_result(path, plan(recipe, 0, None, None)._asdict())
    return path


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """A recipe in a subfolder, of points and a budget of iterations."""
    path = tmp_path / "configs/gan/mixtures/ring.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(RING)
    monkeypatch.setattr(run, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(recipes, "RECIPES", tmp_path / "configs")
    return "gan/mixtures/ring"


@pytest.fixture
def broken_python(tmp_path, monkeypatch):
    """Python processes whose numpy cannot be imported, so that train.py fails at once."""
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_data_and_budget_are_the_recipes_own_unless_they_are_given():
    assert plan("gan/dcgan", 1, None, None) == Task("gan/dcgan", 1, "mnist", 20)
    assert plan("gan/dcgan", 1, "digits", 5) == Task("gan/dcgan", 1, "digits", 5)


def test_points_have_the_name_of_their_mixture_and_a_budget_of_iterations_has_no_epochs(ring):
    assert recipes_like(["gan/*"]) == [ring]
    task = plan(ring, 1, "digits", None)
    assert task == Task(ring, 1, "ring", None)
    assert (task.name, str(task)) == ("benchmark-gan-mixtures-ring-ring-seed1", "gan/mixtures/ring, seed 1 on ring")


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "iterations"), [(None, 3), (1, 10)])
def test_points_are_fitted_for_the_budget_and_tested(ring, epochs, iterations, tmp_path, monkeypatch):
    """In this process: points have neither source nor root, and epochs that are given count alone."""
    monkeypatch.setattr(
        run, "train_py", lambda *arguments: train.main([*arguments, "--trainer.enable_progress_bar=false"])
    )
    row = perform(plan(ring, 0, None, epochs), "nowhere", tmp_path / "runs")
    assert (row["epochs"], row["test"]["iteration"]) == (epochs, iterations)
    assert row["test"]["metrics"].keys() == {"modes", "high_quality", "reverse_kl"}
    assert row["minutes"] >= 0


def test_what_is_in_the_results_is_not_done_again(results, tmp_path, broken_python):
    before = results.read_text()
    arguments = ["--seeds", "0", "--results", str(results), "--root", "/nowhere", "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 0
    assert results.read_text() == before


def test_another_seed_source_or_budget_is_to_be_done(results):
    others = [Task("vae/vae", 1, "mnist", 50), Task("vae/vae", 0, "digits", 50), Task("vae/vae", 0, "mnist", 2)]
    assert tasks_left([Task("vae/vae", 0, "mnist", 50), *others], results) == others


def test_other_latents_are_to_be_tested_of_the_same_run(results):
    mixture = plan("vae/vae", 0, None, None, "gmm")
    prior = mixture._replace(latents="prior")
    assert tasks_left([prior, mixture], results) == [mixture]
    assert mixture.name == prior.name
    assert str(mixture) == f"{prior}, latents from gmm"


@pytest.mark.slow
def test_failure_prints_its_last_lines_and_the_others_go_on_seeds_outermost(tmp_path, broken_python, capsys):
    results = tmp_path / "results.jsonl"
    recipes = ["--recipes", "vae/vae", "gan/mlp", "--seeds", "0", "1"]
    assert main([*recipes, "--results", str(results), "--runs", str(tmp_path / "runs")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("ImportError: numpy is broken") == 4
    order = [line[:15] for line in printed.splitlines() if "50 epochs on mnist" in line]
    assert order == ["vae/vae, seed 0", "gan/mlp, seed 0", "vae/vae, seed 1", "gan/mlp, seed 1"]
    assert not results.exists()


def test_line_behind_a_torn_one_is_whole(results):
    with results.open("a") as file:
        file.write('{"recipe": "vae/va')
    append_result(results, row(seed=1))
    with pytest.warns(UserWarning, match=f"line {len(recipes_like(['*'])) + 1} is torn"):
        assert read_results(results)[-1] == row(seed=1)


def test_missing_results_are_none(tmp_path):
    assert read_results(tmp_path / "none.jsonl") == []


def test_newest_run_with_a_checkpoint_is_gone_on_with(tmp_path):
    task = Task("vae/vae", 0, "mnist", 50)
    for version, files in (("20260101", ["last.ckpt"]), ("20260102", ["last.ckpt", "best.ckpt"]), ("20260103", [])):
        checkpoints = tmp_path / task.name / version / "checkpoints"
        checkpoints.mkdir(parents=True)
        for file in files:
            (checkpoints / file).touch()
    assert newest_run(task, tmp_path).path == tmp_path / task.name / "20260102"
    assert newest_run(task._replace(seed=1), tmp_path) is None


def test_run_is_fitted_once_it_has_written_what_it_measured(tmp_path):
    assert not is_fitted(RunFolder(tmp_path))
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {}}))
    assert not is_fitted(RunFolder(tmp_path))
    (tmp_path / "metrics.json").write_text(json.dumps({"fit": {}, "test": {}}))
    assert is_fitted(RunFolder(tmp_path))


def test_unknown_recipe_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["--recipes", "vae/none"])
    assert "there is no configs/vae/none.yaml: choose from gan/" in capsys.readouterr().err

"""The runner of the benchmarks: which tasks it performs, resumes and skips."""

import json

import pytest

import train
from benchmarks import run
from benchmarks.run import (
    Task,
    append_result,
    find_newest_run,
    is_fitted,
    main,
    make_task,
    match_recipes,
    perform,
    read_results,
    select_open_tasks,
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
    for recipe in match_recipes(["*"]):
        append_result(path, make_task(recipe, 0, None, None)._asdict())
    return path


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """A recipe in a subfolder, with points as data and a budget in iterations."""
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


def test_the_data_and_the_budget_are_the_recipes_own_by_default():
    assert make_task("gan/dcgan", 1, None, None) == Task("gan/dcgan", 1, "mnist", 20)
    assert make_task("gan/dcgan", 1, "digits", 5) == Task("gan/dcgan", 1, "digits", 5)


def test_points_are_named_by_their_mixture_and_a_budget_in_iterations_has_no_epochs(ring):
    assert match_recipes(["gan/*"]) == [ring]
    task = make_task(ring, 1, "digits", None)
    assert task == Task(ring, 1, "ring", None)
    assert (task.name, str(task)) == ("benchmark-gan-mixtures-ring-ring-seed1", "gan/mixtures/ring, seed 1 on ring")


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "iterations"), [(None, 3), (1, 10)])
def test_a_recipe_with_points_is_fitted_for_its_budget_and_tested(ring, epochs, iterations, tmp_path, monkeypatch):
    """In this process. Points have neither a source nor a root, and given epochs replace the recipe's budget."""
    monkeypatch.setattr(
        run, "run_train", lambda *arguments: train.main([*arguments, "--trainer.enable_progress_bar=false"])
    )
    row = perform(make_task(ring, 0, None, epochs), "nowhere", tmp_path / "runs")
    assert (row["epochs"], row["test"]["iteration"]) == (epochs, iterations)
    assert row["test"]["metrics"].keys() == {"modes", "high_quality", "reverse_kl"}
    assert row["minutes"] >= 0


def test_tasks_in_the_results_are_skipped(results, tmp_path, broken_python):
    before = results.read_text()
    arguments = ["--seeds", "0", "--results", str(results), "--root", "/nowhere", "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 0
    assert results.read_text() == before


def test_tasks_with_another_seed_source_or_budget_are_open(results):
    others = [Task("vae/vae", 1, "mnist", 50), Task("vae/vae", 0, "digits", 50), Task("vae/vae", 0, "mnist", 2)]
    assert select_open_tasks([Task("vae/vae", 0, "mnist", 50), *others], results) == others


def test_a_task_with_other_latents_is_open_and_shares_the_run(results):
    mixture = make_task("vae/vae", 0, None, None, "gmm")
    prior = mixture._replace(latents="prior")
    assert select_open_tasks([prior, mixture], results) == [mixture]
    assert mixture.name == prior.name
    assert str(mixture) == f"{prior}, latents from gmm"


@pytest.mark.slow
def test_after_a_failure_its_last_lines_are_printed_and_the_other_tasks_follow_by_seed(tmp_path, broken_python, capsys):
    results = tmp_path / "results.jsonl"
    recipes = ["--recipes", "vae/vae", "gan/mlp", "--seeds", "0", "1"]
    assert main([*recipes, "--results", str(results), "--runs", str(tmp_path / "runs")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("ImportError: numpy is broken") == 4
    order = [line[:15] for line in printed.splitlines() if "50 epochs on mnist" in line]
    assert order == ["vae/vae, seed 0", "gan/mlp, seed 0", "vae/vae, seed 1", "gan/mlp, seed 1"]
    assert not results.exists()


def test_a_line_after_an_incomplete_line_is_complete(results):
    with results.open("a") as file:
        file.write('{"recipe": "vae/va')
    append_result(results, row(seed=1))
    with pytest.warns(UserWarning, match=rf"Line {len(match_recipes(['*'])) + 1} of .* is incomplete"):
        assert read_results(results)[-1] == row(seed=1)


def test_a_missing_file_holds_no_results(tmp_path):
    assert read_results(tmp_path / "none.jsonl") == []


def test_the_newest_run_with_a_checkpoint_is_found(tmp_path):
    task = Task("vae/vae", 0, "mnist", 50)
    for version, files in (("20260101", ["last.ckpt"]), ("20260102", ["last.ckpt", "best.ckpt"]), ("20260103", [])):
        checkpoints = tmp_path / task.name / version / "checkpoints"
        checkpoints.mkdir(parents=True)
        for file in files:
            (checkpoints / file).touch()
    assert find_newest_run(task, tmp_path).path == tmp_path / task.name / "20260102"
    assert find_newest_run(task._replace(seed=1), tmp_path) is None


def test_a_run_is_fitted_once_its_metrics_are_stored(tmp_path):
    assert not is_fitted(RunFolder(tmp_path))
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {}}))
    assert not is_fitted(RunFolder(tmp_path))
    (tmp_path / "metrics.json").write_text(json.dumps({"fit": {}, "test": {}}))
    assert is_fitted(RunFolder(tmp_path))


def test_an_unknown_recipe_is_refused_with_the_known_recipes(capsys):
    with pytest.raises(SystemExit):
        main(["--recipes", "vae/none"])
    assert "There is no recipe vae/none. Choose from gan/" in capsys.readouterr().err

"""The runner of the benchmarks: what it does, does again, and does not do again."""

import json

import pytest

from benchmarks.run import EPOCHS, PROJECT, Task, append_result, is_fitted, main, newest_run, read_results, tasks_left


def row(recipe="vae/vae", seed=0, source="mnist", epochs=50):
    return Task(recipe, seed, source, epochs)._asdict()


@pytest.fixture
def results(tmp_path):
    """A results file that holds the first seed of all recipes."""
    path = tmp_path / "results.jsonl"
    for recipe, epochs in EPOCHS.items():
        append_result(path, row(recipe, epochs=epochs))
    return path


@pytest.fixture
def broken_python(tmp_path, monkeypatch):
    """Python processes whose numpy cannot be imported, so that train.py fails at once."""
    (tmp_path / "numpy.py").write_text("raise ImportError('numpy is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_every_budget_is_of_a_recipe():
    assert all((PROJECT / "configs" / f"{recipe}.yaml").is_file() for recipe in EPOCHS)


def test_what_is_in_the_results_is_not_done_again(results, tmp_path, broken_python):
    before = results.read_text()
    arguments = ["--seeds", "0", "--results", str(results), "--root", "/nowhere", "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 0
    assert results.read_text() == before


def test_another_seed_source_or_budget_is_to_be_done(results):
    others = [Task("vae/vae", 1, "mnist", 50), Task("vae/vae", 0, "digits", 50), Task("vae/vae", 0, "mnist", 2)]
    assert tasks_left([Task("vae/vae", 0, "mnist", 50), *others], results) == others


def test_failure_prints_its_last_lines_and_the_others_go_on_seeds_outermost(tmp_path, broken_python, capsys):
    results = tmp_path / "results.jsonl"
    recipes = ["--recipes", "vae/vae", "gan/mlp", "--seeds", "0", "1"]
    assert main([*recipes, "--results", str(results), "--runs", str(tmp_path / "runs")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("ImportError: numpy is broken") == 4
    order = [line[:15] for line in printed.splitlines() if "epochs on mnist" in line]
    assert order == ["vae/vae, seed 0", "gan/mlp, seed 0", "vae/vae, seed 1", "gan/mlp, seed 1"]
    assert not results.exists()


def test_line_behind_a_torn_one_is_whole(results):
    with results.open("a") as file:
        file.write('{"recipe": "vae/va')
    append_result(results, row(seed=1))
    with pytest.warns(UserWarning, match="line 5 is torn"):
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
    assert newest_run(task, tmp_path) == tmp_path / task.name / "20260102"
    assert newest_run(task._replace(seed=1), tmp_path) is None


def test_run_is_fitted_once_it_has_written_what_it_measured(tmp_path):
    assert not is_fitted(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {}}))
    assert not is_fitted(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"fit": {}, "test": {}}))
    assert is_fitted(tmp_path)


def test_unknown_recipe_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["--recipes", "vae/none"])
    assert "there is no configs/vae/none.yaml: choose from gan/mlp" in capsys.readouterr().err

"""RunFolder: names of runs, its lock, what is read from a run's files, and what is checked before a measurement."""

import os
import signal

import pytest

import train
from cli.runs import RunFolder
from gen_lightning.errors import StorageError, UserError

BAD_NAMES = [
    "../x",
    "/elsewhere/x",
    "",
    ".",
    "..",
    "a//b",
    "a/",
    "/",
    "a/../b",
    "a\0b",
    "~",
    "~/x",
    "a\\b",
    "-a",
    "a\nb",
    " ",
    "a:b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_plain_path_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"^`--name` is .*\. Choose letters, digits, _ and -, such as "):
        RunFolder.new(tmp_path, name)


@pytest.mark.parametrize("name", ["dcgan", "mnist/dcgan", "größe_2.5-b", "a=1", "two words"])
def test_a_name_is_one_or_more_plain_path_parts(name, tmp_path):
    assert RunFolder.new(tmp_path, name).path.parent == tmp_path / name


@pytest.mark.slow
def test_the_command_line_refuses_a_name_that_leads_out_of_the_directory_of_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("../x", "/elsewhere/x", ""):
        with pytest.raises(SystemExit) as end:
            train.main(["fit", "--config=vae/vae", "--data.source=digits", f"--name={name}"])
        assert end.value.code == 2
        assert f"`--name` is {name!r}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "vae/1")
    run.path.mkdir(parents=True)
    return run


def test_the_lock_excludes_another_process_until_it_is_killed(run):
    """The half-written files of that process are then removed."""
    reader, writer = os.pipe()
    other = os.fork()
    if other == 0:
        lock = run.lock()
        os.write(writer, b"locked")
        signal.pause()
        lock.close()
    try:
        assert os.read(reader, 6) == b"locked"
        sentence = rf"{run.path} is in use by process {other} on \S+\. Wait for its end, or start a new run\."
        with pytest.raises(UserError, match=sentence):
            run.lock()
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    (run.path / ".metrics.json.0123.tmp").touch()
    with run.lock():
        assert os.listdir(run.path) == [".lock"]


@pytest.mark.parametrize("content", [b"{", b"\xff", b""])
def test_a_torn_metrics_json_is_told_before_a_measurement(run, content):
    run.metrics_json.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics.json is corrupt\. Remove it"):
        run.check_metrics()


def test_a_place_that_cannot_be_written_is_told_before_a_measurement(run):
    run.check_metrics()
    assert os.listdir(run.path) == []
    run.metrics_json.mkdir()
    with pytest.raises(UserError, match=r"metrics.json is not a regular file\. Remove it\."):
        run.check_metrics()
    missing = RunFolder(run.path / "removed")
    with pytest.raises(
        StorageError, match=r"metrics.json cannot be written: the file or its directory has been removed"
    ):
        missing.check_metrics()


def test_the_files_of_a_run_follow_the_umask(run):
    """A colleague may read them."""
    before = os.umask(0o027)
    try:
        run.write_metrics("fit", {"a": 1})
        run.write_config("a: 1")
    finally:
        os.umask(before)
    for path in (run.metrics_json, run.config):
        assert path.stat().st_mode & 0o777 == 0o640

"""RunFolder: names of runs, and what is read from a run's files."""

import pytest

import train
from cli.runs import RunFolder
from gen_lightning.errors import UserError

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

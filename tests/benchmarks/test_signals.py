"""The series that a package ships."""

import sys

import numpy as np
import pytest

from benchmarks import signals


def test_series_of_the_package_are_written_with_their_labels(tmp_path, monkeypatch, capsys):
    if signals.find_folder() is None:
        pytest.skip("aeon is not installed: pip install --no-deps aeon==1.6.0")
    monkeypatch.setattr(sys, "argv", ["signals", "--output", str(tmp_path / "series.npz")])
    signals.main()
    assert "Wrote 1,096 series of shape (1, 24)" in capsys.readouterr().out
    with np.load(tmp_path / "series.npz") as file:
        np.testing.assert_allclose(file["data"].mean(-1), 0, atol=1e-6)
        np.testing.assert_allclose(file["data"].std(-1, ddof=1), 1, atol=1e-6)
        assert np.bincount(file["labels"]).tolist() == [547, 549]


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(signals, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["signals"])
    with pytest.raises(SystemExit):
        signals.main()
    assert "Install it with `pip install --no-deps aeon==1.6.0`" in capsys.readouterr().err

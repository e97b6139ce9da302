"""What `sample` writes over, and what it does not."""

import pytest

from cli.trainer import check_output
from gen_lightning.errors import StorageError, UserError


@pytest.fixture(params=["file", "symbolic link", "dangling symbolic link"])
def existing(tmp_path, request):
    path = tmp_path / "samples.npz"
    if request.param == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path / "target")
    if request.param == "symbolic link":
        (tmp_path / "target").touch()
    return path


def test_existing_samples_are_not_replaced_without_a_word(existing):
    new = existing.with_name("grid.png")
    with pytest.raises(UserError, match=rf"{existing} exists already\. Add --overwrite, or choose another --output"):
        check_output([new, existing], overwrite=False)
    check_output([new, existing], overwrite=True)


def test_the_directory_is_made_and_left_empty(tmp_path):
    check_output([tmp_path / "new/samples/grid.png"], overwrite=False)
    assert list((tmp_path / "new/samples").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"grid.png cannot be written: a file is in the place of its directory\."):
        check_output([tmp_path / "file/samples/grid.png"], overwrite=False)

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from vdm_lib.errors import ConfigError, DataError
from vdm_lib.files.new_directory import new_directory
from vdm_lib.files.records import open_atomically
from vdm_lib.files.storage import explain


@pytest.mark.parametrize("stopped_by", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), DataError("bad")])
def test_a_directory_that_was_not_finished_is_not_there(tmp_path, stopped_by):
    with pytest.raises(type(stopped_by)), new_directory(tmp_path / "a" / "new") as made:
        (made / "file").write_text("half")
        assert not (tmp_path / "a" / "new").exists()
        raise stopped_by
    assert list((tmp_path / "a").iterdir()) == []


def test_what_is_there_already_stays(tmp_path):
    (tmp_path / "file").write_text("a")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="is there already"), new_directory(taken):
            pytest.fail("the block ran")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    program = (
        "import os; from vdm_lib.files.new_directory import new_directory\n"
        f"with new_directory({os.fspath(tmp_path / 'new')!r}) as made:\n"
        "    (made / 'file').write_text('half')\n"
        "    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert not (tmp_path / "new").exists()
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "new").mkdir()  # an empty one is taken
    with pytest.raises(ConfigError, match="is there already"), new_directory(tmp_path / "new") as first:
        (first / "file").write_text("first")
        with new_directory(tmp_path / "new") as second:
            assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "new", Path(first), Path(second)])
            (second / "file").write_text("second")
    assert [path.read_text() for path in tmp_path.rglob("file")] == ["second"]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    path = epath.Path(tmp_path / "x.json")
    with pytest.raises(OSError, match="No space left") as error, open_atomically(path):
        # As a write says it, which knows no name.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(error.value) == f"[Errno 28] No space left on device: '{path}'"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_message_of_protobuf_is_no_error_of_google_cloud():
    from google.protobuf.message import DecodeError

    assert explain(DecodeError("Error parsing message")) is None

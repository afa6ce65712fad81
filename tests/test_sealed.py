"""A file is the one that was written, or it is refused; a kill at any moment leaves one that is good."""

import errno
import math
import os
import random
import resource
import signal
import subprocess
import time

import pytest
import torch

from ctpa_vqgan import sealed
from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.sealed import (
    Damaged,
    Unsealed,
    check_seal,
    load_sealed,
    not_finite,
    save_sealed,
    seal_of,
    sha256_of,
)

CONTENT = {"weights": torch.arange(500.0), "deep": {"list": [1, 2.5, "text", None, True]}}


@pytest.fixture
def path(tmp_path):
    save_sealed(CONTENT, tmp_path / "state.pt")
    return tmp_path / "state.pt"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back(path):
    content = load_sealed(path)
    assert torch.equal(content["weights"], CONTENT["weights"])
    assert content["deep"] == CONTENT["deep"]


def test_the_checksum_is_that_of_sha256sum(path):
    assert names(path.parent) == ["state.pt", "state.pt.sha256"]
    subprocess.run(["sha256sum", "--check", "--quiet", "state.pt.sha256"], cwd=path.parent, check=True)


def test_every_flipped_bit_is_found(path):
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(Damaged, match=r"state\.pt: damaged: expected the SHA-256 "):
            load_sealed(path)


def test_every_truncation_is_found(path):
    whole, draw = path.read_bytes(), random.Random(1)
    for length in [1, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(20))]:
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            load_sealed(path)


@pytest.mark.parametrize("seal", [b"", b"nonsense", b"\xff\xfe", b"0" * 64 + b"  another.pt\n"])
def test_a_checksum_that_is_none_is_damage(path, seal):
    seal_of(path).write_bytes(seal)
    with pytest.raises(Damaged, match=r"state\.pt: damaged: expected the SHA-256 of sha256sum, found"):
        check_seal(path)


def test_a_file_without_its_checksum_is_refused_but_not_called_damaged(path):
    seal_of(path).unlink()
    with pytest.raises(Unsealed, match=r"expected its SHA-256 in state\.pt\.sha256, found none; copy that file too"):
        load_sealed(path)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "Input/output error")])
def test_an_error_that_says_nothing_of_the_file_passes_as_it_is(path, monkeypatch, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        load_sealed(path)


def test_numbers_that_are_not_finite_are_refused_by_name_unless_they_are_wanted(path):
    content = {"deep": [torch.zeros(2), {"weights": torch.tensor([1.0, math.nan])}]}
    with pytest.raises(BadNumbers, match=r"state\.pt: not written: deep\.1\.weights holds numbers that are not finite"):
        save_sealed(content, path)
    assert torch.equal(load_sealed(path)["weights"], CONTENT["weights"])
    save_sealed(content, path, finite=False)
    assert list(not_finite(load_sealed(path))) == ["deep.1.weights"]


def test_a_file_that_pytorch_cannot_read_is_refused_though_its_checksum_fits(path):
    path.write_bytes(b"no zip file")
    seal_of(path).write_text(f"{sha256_of(path)}  state.pt\n")
    with pytest.raises(Damaged, match="no plain PyTorch file"):
        load_sealed(path)


@pytest.mark.parametrize("moment", ["before the new seal", "before the new file", "before the last seal"])
def test_a_process_that_dies_while_it_replaces_a_file_leaves_a_good_one(path, monkeypatch, moment):
    """Whatever is done by then, what lies under the name is what one line of its checksums says."""

    class Killed(BaseException):
        pass

    replace, done = os.replace, []

    def dying(source, target):
        done.append(target)
        if len(done) == ["before the new seal", "before the new file", "before the last seal"].index(moment) + 1:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Killed):
        save_sealed({"weights": torch.zeros(3)}, path)
    monkeypatch.undo()
    expected = 3 if moment == "before the last seal" else 500
    assert len(load_sealed(path)["weights"]) == expected
    save_sealed(CONTENT, path)
    assert len(seal_of(path).read_text().splitlines()) == 1


def test_a_disk_that_gives_back_other_bytes_is_noticed_and_the_older_file_stays(path, monkeypatch):
    before = path.read_bytes()
    write = sealed._Hashing.write

    def lossy(self, data):
        write(self, data)
        self.file.seek(-1, os.SEEK_CUR)
        self.file.write(b"?")
        return len(data)

    monkeypatch.setattr(sealed._Hashing, "write", lossy)
    with pytest.raises(UserError, match="the disk gave back other bytes than were written"):
        save_sealed({"weights": torch.ones(3)}, path)
    assert path.read_bytes() == before
    assert names(path.parent) == ["state.pt", "state.pt.sha256"]


def test_a_full_disk_is_named_and_leaves_the_older_file(path, monkeypatch):
    before, hashing = path.read_bytes(), sealed._Hashing

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            pass

    monkeypatch.setattr(sealed, "_Hashing", lambda file: hashing(Full()))
    with pytest.raises(
        UserError, match=r"state\.pt: could not be written \(No space left on device\); free some space"
    ):
        save_sealed({"weights": torch.ones(3)}, path)
    assert path.read_bytes() == before
    assert names(path.parent) == ["state.pt", "state.pt.sha256"]


def test_a_real_limit_on_the_size_of_files_is_met_with_one_line(path):
    """RLIMIT_FSIZE, in a process of its own, as a stand-in for a full disk."""
    before = path.read_bytes()
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            save_sealed({"weights": torch.ones(100_000)}, path)
        except UserError as error:
            os._exit(0 if "\n" not in str(error) and "File too large" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == before
    assert names(path.parent) == ["state.pt", "state.pt.sha256"]


def test_kills_while_saving_leave_a_good_file(tmp_path):
    """SIGKILL at random moments of a process that does nothing but save; see ``make soak`` for two hundred."""
    path, draw = tmp_path / "state.pt", random.Random(2)
    save_sealed({"number": 0, "weights": torch.zeros(1)}, path)
    last = 0
    for _ in range(8):
        child = os.fork()
        if not child:
            for number in range(last + 1, last + 10_000):
                save_sealed({"number": number, "weights": torch.full((20_000,), float(number))}, path)
            os._exit(0)
        time.sleep(draw.uniform(0.03, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content = load_sealed(path)
        assert content["number"] >= last
        assert (content["weights"] == content["number"]).all()
        last = content["number"]
    assert last > 0, "nothing was saved between the kills"


def test_a_malicious_file_does_not_run(tmp_path):
    target = tmp_path / "made by the attacker"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(target),)

    torch.save(Evil(), tmp_path / "evil.pt")
    seal_of(tmp_path / "evil.pt").write_text(f"{sha256_of(tmp_path / 'evil.pt')}  evil.pt\n")
    with pytest.raises(Damaged, match="no plain PyTorch file"):
        load_sealed(tmp_path / "evil.pt")
    assert not target.exists()

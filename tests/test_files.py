"""Several processes in one folder: who is refused, who waits, and whose leftovers go."""

import threading

import pytest

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import Claim, in_turn, remove_leftovers
from ctpa_vqgan.ranks import Shard


def shard(text):
    return Shard.of(text)


def test_shards_of_one_division_work_together(tmp_path):
    claims = [Claim(tmp_path, shard(part)) for part in ("1/3", "3/3", "2/3")]
    for claim in claims:
        claim.release()
    Claim(tmp_path).release()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (None, None, "another process works there"),
        (None, "1/2", "a process that takes all cases works there"),
        ("1/2", None, "another process works there"),
        ("1/2", "1/2", "another process works there on shard 1/2"),
        ("1/2", "2/3", "shard 1/2 of another division works there"),
    ],
)
def test_who_would_do_the_same_cases_is_refused_by_name(tmp_path, first, second, message):
    claim = Claim(tmp_path, first and shard(first))
    with pytest.raises(UserError) as refused:
        Claim(tmp_path, second and shard(second))
    assert str(refused.value) == f"{tmp_path}: {message}; wait for it, or choose another output"
    claim.release()
    Claim(tmp_path, second and shard(second)).release()


def test_shards_take_turns(tmp_path):
    entered = threading.Event()

    def work():
        with in_turn(tmp_path, shard("2/2")):
            entered.set()

    thread = threading.Thread(target=work)
    with in_turn(tmp_path, shard("1/2")):
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


def test_one_process_alone_leaves_no_lock(tmp_path):
    with in_turn(tmp_path, Shard()):
        pass
    Claim(tmp_path / "new").release()
    assert not list(tmp_path.iterdir())


def test_a_shard_removes_its_own_leftovers_and_none_of_another_machine(tmp_path):
    for name in (".999999999.a.nii.gz", ".999999999.b.nii.gz", ".hidden"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, {"a.nii.gz"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".999999999.b.nii.gz", ".hidden"]
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]

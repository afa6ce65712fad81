"""Several processes that prepare one data set make the one that a single process makes."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

sys.path += [str(Path(__file__).parents[1] / "data"), str(Path(__file__).parents[1] / "data/formats")]

from corpus.metaimage import metaimage
from corpus.nifti import gz, nifti
from corpus.nrrd import nrrd
from corpus.patient import chest, geometry
from dicom_corpus.files import write
from dicom_corpus.images import make

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.data import training_cases
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.prepare import prepare, run
from ctpa_vqgan.prepare.locks import at_work
from ctpa_vqgan.prepare.shards import part_at_work
from ctpa_vqgan.ranks import Shard

SHAPE, SPACING = (40, 36, 34), (8.0, 8.5, 9.5)


def volume(seed: int, **header) -> bytes:
    return nifti(chest(SHAPE, seed=seed), geometry(SPACING), **header)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """Six volumes in four formats, three of them equal; a mask, a damaged file and a damaged archive."""
    folder = tmp_path_factory.mktemp("inputs") / "hospital"
    folder.mkdir()
    (folder / "a.nii").write_bytes(volume(0))
    (folder / "b.nii.gz").write_bytes(gz(volume(0)))
    (folder / "c.nrrd").write_bytes(nrrd(chest(SHAPE, seed=1), geometry(SPACING)))
    write(make(chest(SHAPE, seed=2), spacing=SPACING), folder / "d")
    (folder / "e-mask.nii").write_bytes(nifti((chest(SHAPE) > 200).astype(np.uint8), geometry(SPACING)))
    with zipfile.ZipFile(folder / "f.zip", "w") as archive:
        archive.writestr("again/a.nii", volume(0))
        archive.writestr("f.mha", metaimage(chest(SHAPE, seed=3), geometry(SPACING)))
    (folder / "g.nii.gz").write_bytes(gz(volume(4))[:-100])
    (folder / "h.tar.gz").write_bytes(b"no archive")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def alone(hospital, tmp_path_factory) -> dict[str, bytes]:
    """What a single process makes of it."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    result = prepare([hospital], folder, workers=0)
    assert (len(result.accepted), len(result.refused)) == (6, 3)
    assert sum("-" in record["case"][3:] for record in result.accepted) == 2, "equal volumes with a number"
    return contents(folder)


@pytest.fixture
def converted(monkeypatch) -> list[str]:
    """Names of the sources that were converted, refused ones too."""
    names, convert = [], run.convert
    monkeypatch.setattr(run, "convert", lambda job: (names.append(Path(job[0].name).name), convert(job))[1])
    return names


def without_journal(files: dict[str, bytes]) -> dict[str, bytes]:
    """Its lines are in the order of the work."""
    return {name: content for name, content in files.items() if name != "sources.jsonl"}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


# -- the same data set -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_in_any_order_make_byte_for_byte_what_one_process_makes(hospital, alone, tmp_path, order):
    for number, index in enumerate(order):
        result = prepare([hospital], tmp_path / "out", workers=0, shard=f"{index}/3")
        assert len(result.missing) == 2 - number
    assert contents(tmp_path / "out") == alone
    assert (len(result.accepted), len(result.refused)) == (6, 3)
    assert {path.name for path in (tmp_path / "out").glob(".*")} == {".lock", ".shards"}


def test_the_processes_of_torchrun_share_the_volumes(hospital, alone, tmp_path, monkeypatch, converted):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        prepare([hospital], tmp_path / "out", workers=0)
    assert contents(tmp_path / "out") == alone
    assert len(converted) == 8, "each by one of them"


def test_equal_volumes_are_numbered_by_name_whichever_is_ready_first(hospital, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "map_safely", lambda function, jobs, _: [(job, function(job)) for job in jobs[::-1]])
    prepare([hospital], tmp_path / "out", workers=0)
    assert without_journal(contents(tmp_path / "out")) == without_journal(alone)


def test_more_shards_than_volumes_do_no_harm(tmp_path):
    (tmp_path / "a.nii").write_bytes(volume(0))
    for index in (1, 2, 3):
        result = prepare([tmp_path / "a.nii"], tmp_path / "out", workers=0, shard=f"{index}/3")
    assert len(result.accepted) == 1


# -- half made ---------------------------------------------------------------------------------------------------------


def test_what_some_shards_have_made_is_no_data_set(hospital, tmp_path):
    prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"sources.jsonl", "volumes"}
    assert not list((tmp_path / "out/volumes").iterdir())
    with pytest.raises(UserError, match="prepare did not finish here"):
        training_cases(tmp_path / "out")


def test_an_older_data_set_serves_until_the_last_shard_is_done(hospital, alone, tmp_path):
    first = prepare([hospital / "c.nrrd"], tmp_path / "out", workers=0)
    before = contents(tmp_path / "out")
    prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert contents(tmp_path / "out") == before
    result = prepare([hospital], tmp_path / "out", workers=0, shard="2/2")
    assert len(result.accepted) == 6
    assert first.accepted[0]["case"] in {record["case"] for record in result.accepted}


def test_a_killed_shard_goes_on_where_it_was(hospital, alone, tmp_path, monkeypatch, converted):
    convert = run.convert

    def killed_at_the_third(job):
        if len(converted) == 2:
            raise KeyboardInterrupt
        return convert(job)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, "convert", killed_at_the_third)
        prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert len(prepare([hospital], tmp_path / "out", workers=0, shard="2/2").missing) == 1
    prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert len(converted) == 8, "none twice"
    assert contents(tmp_path / "out") == alone


def test_a_shard_that_is_run_twice_does_nothing(hospital, tmp_path, converted):
    once = prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    before, names = contents(tmp_path / "out"), list(converted)
    twice = prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert converted == names
    assert contents(tmp_path / "out") == before
    assert twice == once


@pytest.mark.parametrize("then", [["1/2", "2/2"], [None]])
def test_another_number_of_shards_takes_over_what_is_finished(hospital, alone, tmp_path, converted, then):
    for shard in ("1/3", "3/3"):
        prepare([hospital], tmp_path / "out", workers=0, shard=shard)
    accepted = {name for name in converted if "mask" not in name and not name.startswith("g")}
    converted.clear()
    for shard in then:
        prepare([hospital], tmp_path / "out", workers=0, shard=shard)
    assert without_journal(contents(tmp_path / "out")) == without_journal(alone)
    assert accepted
    assert not accepted & set(converted)


def test_shards_with_other_settings_do_not_count_as_done(hospital, tmp_path, capsys):
    prepare([hospital], tmp_path / "out", workers=0, shard="1/2", seed=1)
    assert prepare([hospital], tmp_path / "out", workers=0, shard="2/2").missing == [Shard(0, 2)]
    assert "shards 1/2 were of another number of shards, or had other inputs" in capsys.readouterr().err


def test_a_join_that_breaks_off_is_made_good_by_any_shard(hospital, alone, tmp_path, monkeypatch, converted):
    prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="full"):
        patch.setattr(run, "write_data_set", lambda *_: (_ for _ in ()).throw(UserError("disk full")))
        prepare([hospital], tmp_path / "out", workers=0, shard="2/2")
    prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert contents(tmp_path / "out") == alone
    assert len(converted) == 8


def test_a_file_that_comes_while_shards_are_at_work_is_in_the_data_set(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "bcd":
        (tmp_path / f"in/{name}.nii").write_bytes(volume(ord(name)))
    prepare([tmp_path / "in"], tmp_path / "out", workers=0, shard="1/2")
    (tmp_path / "in/a.nii").write_bytes(volume(0))  # all others change their shard
    result = prepare([tmp_path / "in"], tmp_path / "out", workers=0, shard="2/2")
    names = [Path(record["source"]).name for record in result.accepted]
    assert sorted(names) == ["a.nii", "b.nii", "c.nii", "d.nii"]


def test_a_source_that_changed_since_is_prepared_anew_by_its_shard(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.nii").write_bytes(volume(number))
    inputs = [tmp_path / "0.nii", tmp_path / "1.nii"]
    old = prepare(inputs, tmp_path / "out", workers=0)
    (tmp_path / "0.nii").write_bytes(volume(9))
    (tmp_path / "1.nii").write_bytes(b"damaged")
    for shard in ("1/2", "2/2"):
        new = prepare(inputs, tmp_path / "out", workers=0, shard=shard)
    assert (len(new.accepted), len(new.refused)) == (1, 1)
    assert new.accepted[0]["case"] not in {record["case"] for record in old.accepted}
    assert [path.stem for path in (tmp_path / "out/volumes").iterdir()] == [new.accepted[0]["case"]]


# -- at the same time --------------------------------------------------------------------------------------------------


def test_shards_keep_a_run_without_shards_out_and_the_other_way_round(hospital, tmp_path):
    out = tmp_path / "out"
    with part_at_work(out, Shard(0, 2), []), pytest.raises(UserError, match="another prepare is at work"):
        prepare([hospital], out, workers=0)
    with at_work(out), pytest.raises(UserError, match="another prepare is at work"):
        prepare([hospital], out, workers=0, shard="1/2")


def test_a_shard_is_not_at_work_twice_nor_beside_one_of_another_division(tmp_path):
    def begin(shard, settings):
        with part_at_work(tmp_path, shard, settings):
            pass

    with part_at_work(tmp_path, Shard(0, 2), {"seed": 1}):
        begin(Shard(1, 2), {"seed": 1})
        with pytest.raises(UserError, match="shard 1/2 is at work there already"):
            begin(Shard(0, 2), {"seed": 1})
        for shard, settings in ((Shard(1, 3), {"seed": 1}), (Shard(1, 2), {"seed": 2})):
            with pytest.raises(UserError, match="shard 1/2 is at work there, of another number of shards"):
                begin(shard, settings)
    begin(Shard(1, 3), {"seed": 1})


def test_a_shard_that_ends_while_another_is_at_work_leaves_the_join_to_it(hospital, alone, tmp_path, monkeypatch):
    convert, results = run.convert, []

    def meanwhile(job):
        if not results:
            results.append(None)
            results[0] = prepare([hospital], tmp_path / "out", workers=0, shard="2/2")
        return convert(job)

    monkeypatch.setattr(run, "convert", meanwhile)
    last = prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert (results[0].missing, last.missing) == ([Shard(0, 2)], [])
    assert contents(tmp_path / "out") == alone


def test_a_shard_that_was_started_again_is_waited_for(hospital, alone, tmp_path, monkeypatch):
    prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    look, results = run._look, []

    def meanwhile(*arguments):
        if not results:
            results.append(None)
            results[0] = prepare([hospital], tmp_path / "out", workers=0, shard="2/2")
        return look(*arguments)

    monkeypatch.setattr(run, "_look", meanwhile)
    last = prepare([hospital], tmp_path / "out", workers=0, shard="1/2")
    assert (results[0].missing, last.missing) == ([Shard(0, 2)], [])
    assert contents(tmp_path / "out") == alone


# -- on the command line, and odd folders ------------------------------------------------------------------------------


def test_each_shard_tells_what_is_missing_and_whether_it_refused_anything(hospital, tmp_path, capsys):
    command = ["prepare", str(hospital), "--output", str(tmp_path / "out"), "--workers", "0", "--shard"]
    codes = {shard: main([*command, shard]) for shard in ("1/4", "2/4", "3/4")}
    told = capsys.readouterr().out.splitlines()
    assert "1 of 4 shards are done" in told[0]
    assert told[-1].endswith("3 of 4 shards are done, the last to end makes the data set (missing: 4/4)")
    assert set(codes.values()) == {0, 3}
    assert main([*command, "4/4"]) == 3
    assert capsys.readouterr().out.startswith("6 cases accepted, 3 refused: see ")
    assert main([*command, "5/4"]) == 1
    assert "--shard: expected part i/n" in capsys.readouterr().err


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "a.nii").write_bytes(volume(0))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="parts: expected a folder, found a link"):
        prepare([tmp_path / "a.nii"], tmp_path / "out", workers=0, shard="1/2")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_lines_that_a_kill_has_torn_or_that_no_shard_wrote_count_for_nothing(tmp_path, converted):
    for number in range(2):
        (tmp_path / f"{number}.nii").write_bytes(volume(number))
    inputs, out = [tmp_path / "0.nii", tmp_path / "1.nii"], tmp_path / "out"
    prepare(inputs, out, workers=0, shard="1/2")
    [journal] = (out / ".parts").glob("*.jsonl")
    strange = b'{"source": "x", "series": "", "stamp": "", "sha256": "../.."}'
    journal.write_bytes(journal.read_bytes()[:-20] + b"\n" + strange + b"\n3\n")
    prepare(inputs, out, workers=0, shard="2/2")
    assert sorted(converted) == ["0.nii", "0.nii", "1.nii"], "by the last shard, which finds it missing"
    assert len(list((out / "volumes").iterdir())) == 2

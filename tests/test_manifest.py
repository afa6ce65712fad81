"""The manifest tells by name which files of a bundle are missing, changed or additional."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.manifest import MANIFEST, compare, write_manifest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bundle(tmp_path):
    """A bundle of three files, with its manifest."""
    for name, text in {"configs/train.yaml": "a: 1\n", "docs/read me.md": "hello\n", "LICENSE": "free\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert write_manifest(tmp_path) == 3
    return tmp_path


def verify(bundle, *options):
    return main(["verify", "--bundle", str(bundle), *options])


def test_the_manifest_of_the_repository_is_current():
    assert not any(compare(ROOT / "bundles/ctpa_vqgan")), "python -m ctpa_vqgan verify --write, if the change was meant"


def test_a_bundle_as_its_manifest_says_ends_with_0_and_one_line(bundle, capsys):
    assert verify(bundle) == 0
    assert capsys.readouterr().out == f"{bundle}: every file is as its manifest says\n"


def test_missing_changed_and_additional_files_are_named_and_end_with_1(bundle, capsys):
    (bundle / "LICENSE").unlink()
    (bundle / "configs/train.yaml").write_text("a: 2\n")
    (bundle / "configs/evil.yaml").write_text("run: $import os\n")
    assert verify(bundle) == 1
    told = capsys.readouterr().out.splitlines()
    assert told == ["missing: LICENSE", "changed: configs/train.yaml", "additional: configs/evil.yaml"]


def test_a_single_bit_is_enough(bundle):
    for path in (bundle / "LICENSE", bundle / "docs/read me.md"):
        content = bytearray(path.read_bytes())
        content[0] ^= 1
        path.write_bytes(content)
    assert compare(bundle).changed == ["LICENSE", "docs/read me.md"]


def test_writing_it_anew_accepts_the_change(bundle, capsys):
    (bundle / "LICENSE").write_text("freer\n")
    assert verify(bundle, "--write") == 0
    assert capsys.readouterr().out == f"{bundle / MANIFEST}: 3 files\n"
    assert verify(bundle) == 0


def test_sha256sum_reads_it(bundle):
    check = ["sha256sum", "--check", "--strict", "--quiet", MANIFEST]
    assert subprocess.run(check, cwd=bundle).returncode == 0
    (bundle / "LICENSE").write_text("not so free\n")
    assert subprocess.run(check, cwd=bundle, capture_output=True).returncode == 1


def test_caches_and_the_users_own_data_and_results_are_left_out(bundle):
    for folder in ("data", "eval/checkpoints", "configs/__pycache__"):
        (bundle / folder).mkdir(parents=True)
        (bundle / folder / "file").touch()
    assert not any(compare(bundle))
    (bundle / "configs/data").mkdir()
    (bundle / "configs/data/file").touch()
    assert compare(bundle).additional == ["configs/data/file"]


def test_links_hide_nothing(bundle):
    os.symlink(bundle / "docs", bundle / "configs/more")
    (bundle / "LICENSE").rename(bundle / "data")  # a file of that name is no folder of the user's
    assert compare(bundle).additional == ["configs/more", "data"]


@pytest.mark.parametrize("line", ["nonsense", "0" * 63 + "  LICENSE", "0" * 64 + " LICENSE", ""])
def test_a_damaged_manifest_is_named_with_the_line(bundle, capsys, line):
    with (bundle / MANIFEST).open("a") as file:
        file.write(f"{line}\n")
    assert verify(bundle) == 1
    assert capsys.readouterr().err.startswith(f"error: {bundle / MANIFEST}: line 4: expected a SHA-256 and a name")


def test_a_name_that_leads_out_of_the_bundle_is_missing_and_is_not_opened(bundle):
    with (bundle / MANIFEST).open("a") as file:
        file.write(f"{'0' * 64}  ../../etc/passwd\n{'0' * 64}  /dev/stdin\n")
    assert compare(bundle) == (["../../etc/passwd", "/dev/stdin"], [], [])


def test_without_a_manifest_the_way_to_one_is_told(bundle, capsys):
    (bundle / MANIFEST).unlink()
    assert verify(bundle) == 1
    told = capsys.readouterr().err
    assert told == f"error: {bundle / MANIFEST}: no such file; python -m ctpa_vqgan verify --write makes it\n"


def test_a_name_that_does_not_fit_a_line_is_refused(bundle, capsys):
    (bundle / "a\nb").touch()
    assert verify(bundle, "--write") == 1
    assert "expected a printable name" in capsys.readouterr().err


def test_verifying_loads_nothing_heavy(bundle):
    code = (
        "import sys\nfrom ctpa_vqgan.__main__ import main\n"
        f"code = main(['verify', '--bundle', {str(bundle)!r}])\n"
        "print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules], code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[] 0"


# -- the front door ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch):
    """Lets a workflow come as far as MONAI."""
    calls = []
    monkeypatch.setattr("monai.bundle.run", lambda **options: calls.append(options))
    return calls


def test_a_workflow_names_the_configs_that_were_changed_and_goes_on(bundle, ran, capsys):
    assert main(["train", "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().err == ""
    (bundle / "configs/train.yaml").write_text("a: 2\n")
    (bundle / "configs/logging.conf").touch()
    (bundle / "LICENSE").write_text("not read here\n")
    assert main(["train", "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().err == (
        f"warning: {bundle}: changed since its manifest: configs/train.yaml, configs/logging.conf; "
        "python -m ctpa_vqgan verify --write accepts this\n"
    )
    assert len(ran) == 2


def test_a_bundle_without_a_manifest_is_run_without_a_word(bundle, ran, capsys):
    (bundle / MANIFEST).unlink()
    assert main(["train", "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().err == ""

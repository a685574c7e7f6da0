"""Files of the user's inside a bundle or gallery: a change of the bundle keeps them, a replacement is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from caan import _files
from caan._files import atomic_folder, check_change, resumable_folder
from caan.bundle import change_bundle, open_bundle
from caan.errors import CaanWarning, OutputError
from tests.conftest import tree

posix = pytest.mark.skipif(os.name != "posix", reason="modes, owners and links as on POSIX")
root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def bundle(tiny_bundle):
    """A bundle with the user's own repository, folder, notes, link, and a file among caan's."""
    (tiny_bundle / ".git").mkdir(mode=0o700)
    (tiny_bundle / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tiny_bundle / "Documents" / "empty").mkdir(parents=True)
    (tiny_bundle / "notes.txt").write_text("mine")
    (tiny_bundle / "onnx" / "notes.txt").write_text("mine too")
    (tiny_bundle / "link").symlink_to("notes.txt")
    return tiny_bundle


def users(folder):
    names = (".git", "Documents", "notes.txt", "onnx/notes.txt", "link")
    return {name: content for name, content in tree(folder).items() if name.startswith(names)}


def statuses(folder):
    """Identity and metadata of the user's files."""
    paths = [path for path in folder.rglob("*") if path.relative_to(folder).as_posix() in users(folder)]
    return {path: (s.st_ino, s.st_mode, s.st_uid, s.st_mtime_ns) for path in paths for s in [path.lstat()]}


def add_entry(folder, manifest):
    (folder / "engines" / "tensorrt-fp16").mkdir(parents=True)
    (folder / "engines" / "tensorrt-fp16" / "scorer.plan").write_bytes(b"plan")
    manifest["tried"] = True


@posix
@pytest.mark.parametrize("exchange", [True, False])
def test_a_change_keeps_them_as_they_are(bundle, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(_files.folders, "_exchange", lambda first, second: False)
    before, content = statuses(bundle), users(bundle)
    change_bundle(bundle, add_entry)
    assert statuses(bundle).keys() == before.keys() and users(bundle) == content
    # A folder's own time changes when its parent does; its inode and mode don't.
    assert {path: known[:3] for path, known in statuses(bundle).items()} == {
        path: known[:3] for path, known in before.items()
    }
    assert open_bundle(bundle).manifest["tried"] is True
    assert [path.name for path in bundle.parent.iterdir()] == ["model.caan"]


def test_the_current_folder_may_be_the_bundle(bundle, monkeypatch):
    content = users(bundle)
    monkeypatch.chdir(bundle)
    check_change(Path(), [])
    assert change_bundle(Path(), add_entry).manifest["tried"] is True
    assert users(bundle) == content and [path.name for path in bundle.parent.iterdir()] == ["model.caan"]


def test_a_bundle_that_is_protected_is_refused_before_the_work(tiny_bundle):
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tiny_bundle.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        check_change(tiny_bundle, [])


def test_a_file_added_while_the_bundle_is_changed_stays(bundle):
    def change(folder, manifest):
        (bundle / "later.txt").write_text("mine")

    change_bundle(bundle, change)
    assert (bundle / "later.txt").read_text() == "mine" and "later.txt" not in open_bundle(bundle).manifest["files"]


@posix
def test_modes_of_the_folder_and_of_replaced_files_stay(tiny_bundle):
    tiny_bundle.chmod(0o700)
    (tiny_bundle / "onnx").chmod(0o750)
    (tiny_bundle / "manifest.json").chmod(0o600)
    change_bundle(tiny_bundle, add_entry)
    modes = [(tiny_bundle / name).stat().st_mode & 0o7777 for name in ("", "onnx", "manifest.json")]
    assert modes == [0o700, 0o750, 0o600]


@root
def test_owners_stay_and_new_files_belong_to_the_folder_s_owner(tiny_bundle):
    for path in (tiny_bundle, *tiny_bundle.rglob("*")):
        os.chown(path, 4321, 1234)
    change_bundle(tiny_bundle, add_entry)
    assert {(s.st_uid, s.st_gid) for s in (path.stat() for path in (tiny_bundle, *tiny_bundle.rglob("*")))} == {
        (4321, 1234)
    }


def test_user_attributes_stay(tiny_bundle):
    try:
        os.setxattr(tiny_bundle, "user.note", b"mine")
    except (AttributeError, OSError) as error:
        pytest.skip(f"no extended attributes here: {error}")
    change_bundle(tiny_bundle, add_entry)
    assert os.getxattr(tiny_bundle, "user.note") == b"mine"


def test_a_file_of_the_user_s_where_caan_would_write_is_refused_before_the_work(bundle):
    mine = bundle / "engines" / "tensorrt-fp16" / "scorer.plan"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = tree(bundle)
    with pytest.raises(OutputError, match=r"scorer.plan was not written by caan, but caan needs its name; move it"):
        check_change(bundle, ["engines/tensorrt-fp16/scorer.plan"])
    with pytest.raises(OutputError, match=r"scorer\.plan"):
        change_bundle(bundle, add_entry)
    assert tree(bundle) == before


@pytest.mark.parametrize("opening", [atomic_folder, resumable_folder])
def test_overwrite_is_refused_before_the_work_and_names_them(bundle, opening):
    before = tree(bundle.parent)
    says = r"model.caan also holds files that caan did not write \(.git, Documents, link, …\), so it is not replaced"
    with pytest.raises(OutputError, match=says), opening(bundle, overwrite=True):
        raise AssertionError("not before the work")
    assert tree(bundle.parent) == before


def test_a_gallery_s_own_files_are_replaced_and_others_are_not(caan, home):
    index = ["index", "model.caan", "features.npy", "-o", "gallery", "--overwrite"]
    (home / "ids.txt").write_text("".join(f"{n}\n" for n in range(6)))
    assert caan(*index, "--ids", "ids.txt")[0] == 0
    (home / "gallery" / "keep.txt").write_text("mine")
    before = tree(home / "gallery")
    code, out, err = caan(*index)
    assert (code, out) == (2, "") and "gallery also holds files that caan did not write (keep.txt)" in err
    assert tree(home / "gallery") == before
    (home / "gallery" / "keep.txt").unlink()
    assert caan(*index)[0] == 0 and not (home / "gallery" / "ids.jsonl").exists()


def test_a_home_folder_with_a_bundle_s_manifest_in_it(caan, home):
    (home / "home" / "Documents").mkdir(parents=True)
    (home / "home" / "Documents" / "letter.txt").write_text("mine")
    shutil.copy(home / "model.caan" / "manifest.json", home / "home")
    before = tree(home / "home")
    code, out, err = caan("export", "model.pt", "-o", "home", "--overwrite")
    assert (code, out) == (2, "") and "(Documents)" in err
    assert tree(home / "home") == before


def test_a_file_added_while_a_bundle_is_replaced_is_not_lost(tiny_bundle):
    with pytest.raises(OutputError, match=r"later\.txt"), atomic_folder(tiny_bundle, overwrite=True):
        (tiny_bundle / "later.txt").write_text("mine")
    assert (tiny_bundle / "later.txt").read_text() == "mine" and open_bundle(tiny_bundle)
    assert [path.name for path in tiny_bundle.parent.iterdir()] == ["model.caan"]


@pytest.mark.slow
def test_an_engine_is_built_beside_them(caan, home):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    (home / "model.caan" / ".git").mkdir(mode=0o700)
    (home / "model.caan" / ".git" / "HEAD").write_text("mine")
    (home / "gallery").rename(home / "model.caan" / "gallery")
    (home / "model.caan").chmod(0o700)
    before = tree(home / "model.caan" / "gallery")
    code, _, err = caan("build-engine", "model.caan", "--fp16")
    assert code == 0, err
    assert (home / "model.caan" / ".git" / "HEAD").read_text() == "mine"
    assert tree(home / "model.caan" / "gallery") == before
    assert (home / "model.caan").stat().st_mode & 0o777 == 0o700
    assert "fp16" in open_bundle(home / "model.caan").precisions


NOBODY = 65534


@root
def test_a_folder_that_may_not_be_moved_undoes_the_change(tiny_bundle, tmp_path):
    """A folder owned by root in the bundle of an unprivileged user, who may not move it."""
    for path in (tmp_path, tiny_bundle, *tiny_bundle.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    (tiny_bundle / "root's").mkdir(mode=0o755)
    before = tree(tmp_path)
    code = (
        "import sys; from pathlib import Path; from caan.bundle import change_bundle\n"
        "from caan.errors import OutputError\n"
        "try: change_bundle(Path('model.caan'), lambda folder, manifest: manifest.update(tried=True))\n"
        "except OutputError as error: print(error); sys.exit(2)\n"
    )
    # Other users may not be able to read the interpreter's folders: import before dropping privileges.
    code = f"import caan.bundle, os; os.setgid({NOBODY}); os.setuid({NOBODY})\n" + code
    for folder in tmp_path.parents:  # pytest's own are closed
        folder.chmod(folder.stat().st_mode | 0o001)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "can't write" in done.stdout, done
    assert tree(tmp_path) == before


def test_a_file_system_in_the_bundle_is_refused_before_the_work(in_namespace, made, tmp_path):
    shutil.copytree(made / "model.caan", tmp_path / "model.caan")
    (tmp_path / "model.caan" / "mounted").mkdir()
    shutil.copy(made / "model.pt", tmp_path)
    mounts = "mount -t tmpfs tmpfs model.caan/mounted; echo mine > model.caan/mounted/file"
    probe = "from pathlib import Path; from caan._files import check_change; check_change(Path('model.caan'), [])"
    script = f'{sys.executable} -c "{probe}" 2>&1 | tail -1; cat model.caan/mounted/file'
    code, out, _ = in_namespace(mounts, script)
    assert code == 0 and "model.caan holds the mount point mounted, so it can't be replaced" in out
    assert out.endswith("mine\n")


@pytest.mark.parametrize(
    "manifest", ["{", '{"format": "caan-bundle"', '{"format": "caan-bundle", "files": ["notes.txt"]}']
)
def test_a_damaged_manifest_lists_nothing(tmp_path, manifest):
    folder = tmp_path / "model.caan"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError), atomic_folder(folder, overwrite=True):
        pass
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["../notes.txt", "/etc/hostname", "sub/../../notes.txt", "", "."])
def test_a_manifest_that_lists_files_outside(tmp_path, name):
    folder = tmp_path / "model.caan"
    folder.mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (folder / "manifest.json").write_text(json.dumps({"format": "caan-bundle", "files": {name: {}}}))
    with atomic_folder(folder, overwrite=True) as new:
        (new / "new").touch()
    assert (tmp_path / "notes.txt").read_text() == "mine" and Path("/etc/hostname").exists()
    assert [path.name for path in folder.iterdir()] == ["new"]


@posix
def test_links_in_a_bundle_are_removed_as_links(tmp_path):
    folder = tmp_path / "model.caan"
    folder.mkdir()
    (tmp_path / "store").write_text("shared")
    (folder / "vocab.json").symlink_to(tmp_path / "store")
    (folder / "manifest.json").write_text('{"format": "caan-bundle", "files": {"vocab.json": {}}}')
    with atomic_folder(folder, overwrite=True) as new:
        (new / "new").touch()
    assert (tmp_path / "store").read_text() == "shared"


def killed_at(call, folder, *, before=True):
    """Change a bundle in a process killed before or after its first call of a function."""
    code = (
        "import os, signal; from pathlib import Path; from caan._files import folders\n"
        "from caan.bundle import change_bundle\n"
        f"real = folders.{call}\n"
        f"def kill(*a, **k):\n    {'' if before else 'real(*a, **k); '}os.kill(os.getpid(), signal.SIGKILL)\n"
        f"folders.{call} = kill\n"
        f"change_bundle(Path({str(folder)!r}), lambda copy, manifest: manifest.update(tried=True))\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


@posix
@pytest.mark.parametrize("call", ["_swap_in", "_exchange", "carry_over", "remove_ours"])
@pytest.mark.parametrize("before", [True, False])
def test_killed_while_it_is_replaced_nothing_is_lost(bundle, call, before):
    content = users(bundle)
    assert killed_at(call, bundle, before=before) == -9
    open_bundle(bundle)
    change_bundle(bundle, add_entry)
    assert users(bundle) == content and open_bundle(bundle).manifest["tried"] is True
    assert [path.name for path in bundle.parent.iterdir()] == ["model.caan"]


@posix
def test_files_that_can_not_be_restored_stay_and_are_named(bundle):
    """Killed before the user's files were moved; the user then wrote one of them again."""
    assert killed_at("carry_over", bundle) == -9
    (bundle / "notes.txt").write_text("newer")
    with pytest.warns(CaanWarning, match=r"\.old holds notes.txt, which caan did not write and could not move"):
        change_bundle(bundle, add_entry)
    (left,) = [path for path in bundle.parent.iterdir() if path != bundle]
    assert tree(left) == {"notes.txt": b"mine"} and (bundle / "notes.txt").read_text() == "newer"

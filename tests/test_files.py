"""Files and folders are written whole or not at all, and an operating system's refusal says what to do."""

import errno
import os
import sys
from pathlib import Path

import pytest

from caan import _cache, _files
from caan._files import atomic_file, atomic_folder, check_target, locked, resumable_folder, sha256_of
from caan.errors import CaanWarning, OutputError

BUNDLE_JSON = '{"format": "caan-bundle"}'
posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links as on POSIX")


@pytest.fixture
def umask():
    """umask(mask): set it until the test ends."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.fixture
def bundle(tmp_path):
    """A folder that looks like a bundle: its manifest lists its other file."""
    folder = tmp_path / "model.caan"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"format": "caan-bundle", "files": {"old": {}}}')
    (folder / "old").touch()
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_with_its_content_after_the_block(tmp_path):
    with atomic_file(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "new"
    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_folder_and_leaves_no_other(bundle, tmp_path, error):
    with pytest.raises(error), atomic_folder(bundle, overwrite=True) as temporary:
        (temporary / "half").touch()
        raise error
    assert names(bundle) == ["manifest.json", "old"]
    assert names(tmp_path) == ["model.caan"]


def test_a_failure_leaves_no_folder_where_none_was(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new") as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole(bundle, tmp_path, monkeypatch, exchange):
    if not exchange:  # as on a system without renameat2
        monkeypatch.setattr(_files.folders, "_exchange", lambda first, second: False)
    with atomic_folder(bundle, overwrite=True) as temporary:
        (temporary / "new").touch()
        assert names(bundle) == ["manifest.json", "old"]
    assert names(bundle) == ["new"]
    assert names(tmp_path) == ["model.caan"]


def test_the_old_folder_comes_back_if_the_new_one_can_not_take_its_place(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(_files.folders, "_exchange", lambda first, second: False)
    real, renamed = _files.Path.rename, []

    def rename(self, target):
        renamed.append(self)
        if len(renamed) == 2:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(_files.Path, "rename", rename)
    with pytest.raises(OutputError, match="Permission denied"), atomic_folder(bundle, overwrite=True):
        pass
    assert names(bundle) == ["manifest.json", "old"]
    assert names(tmp_path) == ["model.caan"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_linux_exchanges_two_folders_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was-{name}").touch()
    assert _files.folders._exchange(tmp_path / "a", tmp_path / "b")
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["was-b"], ["was-a"])


@posix
@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_the_umask_decides_who_may_read(tmp_path, umask, mask, file_mode, folder_mode):
    umask(mask)
    with atomic_file(tmp_path / "file") as temporary:
        temporary.touch()
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inside").touch()
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder", "folder/inside")]
    assert modes == [file_mode, folder_mode, file_mode]
    assert os.umask(mask) == mask


@posix
def test_a_link_to_a_folder_stays_and_what_it_leads_to_is_replaced(bundle, tmp_path):
    (tmp_path / "link.caan").symlink_to(bundle)
    with atomic_folder(tmp_path / "link.caan", overwrite=True) as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "link.caan").is_symlink()
    assert names(bundle) == ["new"]
    assert names(tmp_path) == ["link.caan", "model.caan"]


def test_an_existing_folder_needs_overwrite(bundle):
    with pytest.raises(OutputError, match=r"model.caan exists already; add --overwrite"):
        check_target(bundle, overwrite=False)
    check_target(bundle, overwrite=True)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("notes.txt", "mine"),
        ("package.json", "{}"),
        ("manifest.json", '{"name": "my web app"}'),
        ("vocab.json", '{"format": "caan-vocabulary", "words": {}}'),
    ],
)
def test_a_folder_that_caan_did_not_write_is_never_replaced(tmp_path, file, content):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / file).write_text(content)
    with pytest.raises(OutputError, match="home was not written by caan, so it is not replaced"):
        check_target(tmp_path / "home", overwrite=True)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", BUNDLE_JSON),
        ("manifest.json", '{\n  "format": "caan-bundle",\n  "version": 1,'),  # damaged since
        ("gallery.json", '{"format":"caan-gallery"}'),
    ],
)
def test_a_bundle_or_gallery_may_be_replaced(tmp_path, file, content):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / file).write_text(content)
    check_target(tmp_path / "old", overwrite=True)


def test_an_empty_folder_may_be_replaced(tmp_path):
    with atomic_folder(tmp_path, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert names(tmp_path) == ["new"]


def test_a_file_in_a_folders_place_is_never_replaced(tmp_path):
    (tmp_path / "model.caan").write_text("mine")
    with pytest.raises(OutputError, match="was not written by caan"):
        check_target(tmp_path / "model.caan", overwrite=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_full_disk_says_so_and_leaves_nothing(tmp_path, atomic, number):
    with (
        pytest.raises(OutputError, match=r"model.caan was not written; free some space"),
        atomic(tmp_path / "model.caan"),
    ):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_refused_write_names_the_target_and_the_reason(tmp_path, atomic, number):
    says = rf"can't write .*model.caan: {os.strerror(number)}; name another"
    with pytest.raises(OutputError, match=says), atomic(tmp_path / "model.caan"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


@posix
@pytest.mark.parametrize("place", ["file/model.caan", "file/sub/model.caan", "/proc/model.caan", "x" * 300])
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_place_that_takes_no_file_is_refused(tmp_path, monkeypatch, atomic, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"can't write .*; name another"), atomic(_files.Path(place)):
        pass
    assert names(tmp_path) == ["file"]


def test_sha256_is_the_standards(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "own"))
    assert _cache.cache_folder("x") == tmp_path / "own" / "x"
    monkeypatch.delenv("CAAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _cache.cache_folder("x") == tmp_path / "cache" / "caan" / "x"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _cache.cache_folder("x") == tmp_path / ".cache" / "caan" / "x"


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    """Not in the temporary folder, where anybody could have put another one before."""

    def homeless():
        raise RuntimeError("no home")

    for name in ("CAAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_files.Path, "home", homeless)
    _cache._without_cache.cache_clear()
    with pytest.warns(CaanWarning, match="this user has no home folder; name a folder of your own with CAAN_CACHE"):
        folder = _cache.cache_folder("x")
    with pytest.raises(OutputError), atomic_file(folder / "file"):
        pass


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and permissions as on POSIX")
@pytest.mark.parametrize("part", ["", "tuning"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: folder.chmod(0o777), "can be written to by others"),
        (lambda folder: os.chown(folder, 12345, 12345), r"belongs to another user \(12345\)"),
    ],
)
def test_a_cache_that_others_can_write_to_is_not_used(tmp_path, monkeypatch, part, change, says):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder away")
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "tuning").mkdir(parents=True)
    assert _cache.cache_folder("tuning") == tmp_path / "cache" / "tuning"
    change(tmp_path / "cache" / part)
    with pytest.warns(CaanWarning, match=says):
        folder = _cache.cache_folder("tuning")
    assert not folder.is_relative_to(tmp_path)


def test_a_folder_that_changed_meanwhile_is_not_replaced(bundle):
    with pytest.raises(_files.Outdated), atomic_folder(bundle, overwrite=True, unchanged=lambda: False) as folder:
        (folder / "new").touch()
    assert names(bundle) == ["manifest.json", "old"] and names(bundle.parent) == ["model.caan"]


def test_work_in_progress_is_removed_and_a_full_disk_explained():
    with (
        pytest.raises(OutputError, match=r"no room for work in progress.*TMPDIR"),
        _files.temporary_folder("x") as folder,
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not folder.exists()


@pytest.mark.parametrize("exchange", [True, False])
def test_work_goes_on_in_the_same_folder_until_it_is_done(bundle, tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(_files.folders, "_exchange", lambda first, second: False)
    with pytest.raises(KeyboardInterrupt), resumable_folder(bundle, overwrite=True) as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["model.caan", "model.caan.partial"] and names(bundle) == ["manifest.json", "old"]
    with resumable_folder(bundle, overwrite=True) as folder:
        assert names(folder) == ["half"]
        (folder / "rest").touch()
    assert names(tmp_path) == ["model.caan"] and names(bundle) == ["half", "rest"]


def test_work_that_left_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), resumable_folder(tmp_path / "new"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_work_may_be_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with resumable_folder(_files.Path("."), overwrite=True) as folder:
        (folder / "new").touch()
    assert names(tmp_path) == ["here"] and names(tmp_path / "here") == ["new"]


@posix
def test_one_at_a_time_may_work_on_a_folder(tmp_path):
    with resumable_folder(tmp_path / "new") as folder:
        with (
            pytest.raises(OutputError, match=r"another process is writing .*new.partial; wait for it"),
            resumable_folder(tmp_path / "new"),
        ):
            pass
        (folder / "file").touch()
    assert names(tmp_path) == ["new"]


def test_what_another_process_finished_meanwhile_is_not_replaced(tmp_path):
    with (
        pytest.raises(OutputError, match="new exists already; add --overwrite"),
        resumable_folder(tmp_path / "new") as folder,
    ):
        (folder / "file").touch()
        (tmp_path / "new").mkdir()
    assert names(tmp_path) == ["new", "new.partial"]


def test_a_name_that_work_in_progress_has_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"new.partial ends in .partial"), resumable_folder(tmp_path / "new.partial"):
        pass
    assert names(tmp_path) == []


@posix
def test_a_lock_that_can_not_be_had_leaves_no_open_file(bundle):
    import fcntl

    handles = []
    real = os.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", lambda *arguments: handles.append(real(*arguments)) or handles[-1])
        with locked(bundle), pytest.raises(OutputError, match="another process"), locked(bundle, wait=False):
            pass
        for error in (KeyboardInterrupt, OSError(errno.ENOLCK, "No locks available")):
            patch.setattr(fcntl, "flock", lambda *arguments, error=error: (_ for _ in ()).throw(error))
            if isinstance(error, OSError):  # a network drive without locks: nothing to wait for
                with locked(bundle):
                    pass
            else:
                with pytest.raises(error), locked(bundle):
                    pass
    for handle in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


def test_a_folder_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """By another process, which takes it for a leftover."""
    make, made = os.mkdir, []

    def removed_at_once(path, *arguments):
        make(path, *arguments)
        made.append(path)
        if len(made) == 1:
            Path(path).rmdir()

    monkeypatch.setattr(os, "mkdir", removed_at_once)
    with atomic_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("content")
    assert (tmp_path / "new" / "file").read_text() == "content" and len(made) >= 2

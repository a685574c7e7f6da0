"""Special outputs: pipes, devices, file descriptors, links, private files, folders."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from caan._files import atomic_file, atomic_folder, check_file_target, resumable_folder, temporary_folder
from caan.errors import OutputError
from tests.conftest import tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and links as on Linux")
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")


def write(target, content="new"):
    with atomic_file(target) as temporary:
        temporary.write_text(content)


def test_a_device_stays_one(tmp_path):
    before = Path("/dev/null").stat().st_rdev
    (tmp_path / "null").symlink_to("/dev/null")
    for target in ("/dev/null", tmp_path / "null"):
        check_file_target(Path(target), overwrite=False)
        write(Path(target))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode) and Path("/dev/null").stat().st_rdev == before
    assert (tmp_path / "null").is_symlink() and list(tmp_path.iterdir()) == [tmp_path / "null"]


@root
def test_an_own_device_node(tmp_path):
    try:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (tmp_path / "null").write_text("tried")
    except OSError as error:
        pytest.skip(f"no devices in this folder: {error}")
    write(tmp_path / "null")
    assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)
    assert list(tmp_path.iterdir()) == [tmp_path / "null"]


def test_a_pipe_gets_the_content_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write(tmp_path / "pipe", "new" * 100_000)
    reader.join(timeout=60)
    assert read == ["new" * 100_000] and (tmp_path / "pipe").is_fifo()


def test_a_pipe_whose_reader_goes_away(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: (tmp_path / "pipe").open("rb").close(), daemon=True)
    reader.start()
    with pytest.raises(OutputError, match=r"can't write .*pipe: Broken pipe"):
        write(tmp_path / "pipe", "new" * 1_000_000)


def test_open_files_by_their_number(tmp_path):
    for name in ("/dev/fd/{}", "/proc/self/fd/{}"):
        with (tmp_path / "file").open("w+") as file:
            file.write("before ")
            file.flush()
            write(Path(name.format(file.fileno())))
            file.write(" after")
        assert (tmp_path / "file").read_text() == "before new after"


@pytest.mark.parametrize("name", ["/dev/fd/987", "/dev/stdin", "/dev/full"])
def test_an_open_file_that_can_not_be_written(name, tmp_path):
    code = (
        "import sys; from pathlib import Path; from caan._files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file: file.write_text('new')"
    )
    with Path("/dev/null").open() as nothing:
        done = subprocess.run(
            [sys.executable, "-c", code, name], stdin=nothing, capture_output=True, text=True, cwd=tmp_path
        )
    assert done.returncode == 1 and "OutputError: " in done.stderr
    # /dev/stdin is /dev/null here, opened read-only.
    assert ("is full" if name == "/dev/full" else f"can't write {name}: ") in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("form", ["relative", "absolute", "of a link", "in another folder"])
def test_a_link_stays_and_what_it_leads_to_is_replaced_there(tmp_path, form):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "page.html").write_text("old")
    link = tmp_path / "here" / "page.html"
    if form == "of a link":
        (tmp_path / "there" / "second").symlink_to("page.html")
        link.symlink_to(tmp_path / "there" / "second")
    elif form == "in another folder":
        (tmp_path / "folder").symlink_to("there")
        link = tmp_path / "folder" / "page.html"
    else:
        link.symlink_to("../there/page.html" if form == "relative" else tmp_path / "there" / "page.html")
    before = {name for name, content in tree(tmp_path).items() if content != b"old"}
    write(link)
    assert (tmp_path / "there" / "page.html").read_text() == "new"
    assert {name for name, content in tree(tmp_path).items() if content != b"new"} == before


def test_a_dangling_link_is_written_to_its_target(tmp_path):
    (tmp_path / "link").symlink_to("new/page.html")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "new" / "page.html").read_text() == "new"


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OutputError, match=r"can't write .*link: Too many levels of symbolic links"):
        write(tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "link"  # noqa: PTH115


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_the_mode_stays(tmp_path, mode):
    (tmp_path / "page.html").write_text("old")
    (tmp_path / "page.html").chmod(mode)
    with atomic_file(tmp_path / "page.html") as temporary:
        assert temporary.stat().st_mode & 0o077 == 0  # nor is it readable meanwhile
        temporary.write_text("new")
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == mode


@root
def test_the_owner_stays(tmp_path):
    (tmp_path / "page.html").write_text("old")
    os.chown(tmp_path / "page.html", 4321, 1234)
    write(tmp_path / "page.html")
    status = (tmp_path / "page.html").stat()
    assert (status.st_uid, status.st_gid, (tmp_path / "page.html").read_text()) == (4321, 1234, "new")


def test_the_process_s_umask_is_never_changed(tmp_path, monkeypatch):
    """Threads of the application share it."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("changed"))
    write(tmp_path / "new")
    for make in (atomic_folder, resumable_folder):
        for _ in range(2):  # a new one, and in the place of the old one
            with make(tmp_path / make.__name__, overwrite=True) as folder:
                (folder / "manifest.json").write_text('{"format": "caan-bundle"}')
    with temporary_folder("x"):
        pass


def test_a_long_name_works(tmp_path):
    for name in ("x" * 255, "é" * 127, "😀" * 60):
        write(tmp_path / name)
        write(tmp_path / name, "again")
        assert (tmp_path / name).read_text() == "again"


def test_a_folder_is_noticed_before_the_work(tmp_path):
    with pytest.raises(OutputError, match=r"can't write .*: it is a folder; name another"), atomic_file(tmp_path):
        pytest.fail("not before the work")
    with pytest.raises(OutputError):
        check_file_target(tmp_path)


def test_a_socket_is_noticed_before_the_work(tmp_path):
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        with pytest.raises(OutputError, match="a disk or a socket, not a file"), atomic_file(tmp_path / "socket"):
            pytest.fail("not before the work")


def test_a_file_that_is_mounted_is_written_in_place(in_namespace, tmp_path):
    """As with a container's bind-mounted files: no other file can replace it."""
    (tmp_path / "page.html").write_text("old, and longer")
    (tmp_path / "outside").write_text("old, and longer")
    code = (
        "from pathlib import Path; from caan._files import atomic_file\n"
        "with atomic_file(Path('page.html')) as file: file.write_text('new')"
    )
    code, _, err = in_namespace("mount --bind outside page.html", f'{sys.executable} -c "{code}"')
    assert code == 0, err
    assert (tmp_path / "outside").read_text() == "new"


SEARCH = '$caan search gallery "w1 w2" -k 2'


def test_a_page_to_standard_output_and_nothing_else(shell, home):
    pytest.importorskip("jinja2")
    code, out, err = shell(f"{SEARCH} --html /dev/stdout")
    assert code == 0 and out.startswith("<!") and out.rstrip().endswith("</html>") and "  1  " in err
    code, out, _ = shell(f"{SEARCH} --html >(cat > piped.html); sleep 1; cat piped.html")
    assert code == 0 and out.rstrip().endswith("</html>") and not list(home.glob(".*.tmp"))


def test_a_page_is_replaced_only_on_request(caan, home):
    pytest.importorskip("jinja2")
    (home / "page.html").write_text("mine")
    (home / "page.html").chmod(0o600)
    search = ["search", "gallery", "w1 w2", "--html", "page.html"]
    code, out, err = caan(*search)
    assert (code, out) == (2, "") and "page.html exists already; add --overwrite" in err
    assert (home / "page.html").read_text() == "mine"
    assert caan(*search, "--overwrite")[0] == 0
    assert "</html>" in (home / "page.html").read_text() and (home / "page.html").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("output", ["/dev/null", "gallery", "/dev/full/model.pt"])
def test_a_checkpoint_goes_to_a_file(caan, home, tiny_folder, output):
    import shutil

    for split in ("train", "dev"):
        for end in ("ims.npy", "caps.txt"):
            shutil.copy(tiny_folder / "data" / f"test_{end}", home / f"{split}_{end}")
    code, _, err = caan("train", ".", "-o", output)
    assert code == 2 and err.startswith("Error: ") and not os.path.lexists(f"{output}.resume")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)

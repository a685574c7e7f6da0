"""A read-only root, no temporary folder, no home, standard streams that are closed, full or cut: a sentence, the right
exit code, and no result that is lost with exit code 0."""

import json
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and mounts as on Linux")

# Each prints a result.
COMMANDS = {
    "search": 'search gallery "w1 w2" --json',
    "inspect": "inspect model.caan",
    "doctor": "doctor",
    "explain": 'explain model.caan features.npy "w1 w2" --item 0',
    "index": "index model.caan features.npy -o new",
    "delete": "delete gallery 1",
    "export": "export model.pt -o new.caan",
    "help": "--help",
}
LONG = [pytest.param(name, marks=pytest.mark.attack) for name in COMMANDS if name not in ("search", "help")]
every = pytest.mark.parametrize("command", ["search", "help", *LONG])


@every
def test_a_full_standard_output(shell, home, command):
    code, _, err = shell(f"$caan {COMMANDS[command]} > /dev/full")
    assert code == 2, err
    assert err.splitlines()[-1].startswith("Error: can't write standard output: No space left on device")


@every
def test_a_closed_standard_output(shell, home, command):
    code, _, err = shell(f"$caan {COMMANDS[command]} >&-")
    assert (code, err) == (2, "Error: standard output is closed; redirect it to a file, or to /dev/null\n")


@every
def test_a_standard_output_that_is_open_for_reading(shell, home, command):
    code, _, err = shell(f"$caan {COMMANDS[command]} 1< /dev/null")
    assert code == 2 and "Error: can't write standard output: Bad file descriptor" in err


@every
@pytest.mark.parametrize("stream", ["2>&-", "2> /dev/full", "<&-", "<&- 2>&-"])
def test_other_streams_do_not_matter(shell, home, command, stream):
    code, out, err = shell(f"$caan {COMMANDS[command]} {stream}")
    assert code == 0 and out and "Error" not in err
    if command == "search":
        assert len(json.loads(out)) == 6


def test_a_reader_that_goes_away(shell, home):
    code, _, err = shell('$caan inspect model.caan --json | true; exit "${PIPESTATUS[0]}"')
    assert code in (0, 1, 141) and err == ""
    code, out, err = shell("set -o pipefail; $caan --help | head -1")
    assert out.startswith("Usage:") and err == ""


def test_nothing_at_all_is_open(shell, home):
    code, _, _ = shell('$caan search gallery "w1 w2" <&- >&- 2>&-')
    assert code == 2
    code, _, _ = shell("$caan index model.caan features.npy -o new <&- > /dev/null 2>&-")
    assert code == 0 and (home / "new" / "gallery.json").exists()


def test_captions_from_a_closed_standard_input(shell, home):
    code, out, err = shell("$caan search gallery --captions - <&-")
    assert (code, out) == (2, "") and "Error: standard input is closed" in err


NEEDS_NO_ROOM = ["search", *[pytest.param(name, marks=pytest.mark.attack) for name in ("inspect", "doctor", "explain")]]


# All mounts are read-only, only for the script.
READ_ONLY = """mount --make-rprivate /
for point in / /tmp /var/tmp /dev/shm; do
  if [ -d "$point" ]; then mount --bind "$point" "$point" && mount -o remount,ro,bind "$point"; fi
done
cd "$PWD"
"""


@pytest.fixture
def poor(in_namespace, home):
    """poor(script, **environment): run it without writable folders and without a home."""

    def call(script, **environment):
        environment = {"TMPDIR": "", "CAAN_CACHE": "", "XDG_CACHE_HOME": "", **environment}
        return in_namespace(READ_ONLY, f"unset HOME; {script}", **environment)

    code, _, err = call("touch tried")
    if code == 0 or "Read-only" not in err:
        pytest.skip(f"this machine doesn't let us make a read-only root: {err}")
    return call


@pytest.mark.parametrize("command", NEEDS_NO_ROOM)
def test_what_writes_nothing_works_on_a_read_only_root(poor, command):
    code, out, err = poor(f"$caan {COMMANDS[command]}")
    assert code == 0 and out and "None" not in err, err


WRITING = {
    "index": ("index model.caan features.npy -o new", "can't write new: Read-only file system"),
    "append": ("index model.caan features.npy -o gallery --append", "Read-only file system"),
    "delete": ("delete gallery 1", "can't write gallery"),
    "export": ("export model.pt -o new.caan", "can't write new.caan: Read-only file system"),
    "html": ('search gallery "w1" --html page.html', "can't write page.html: Read-only file system"),
    "png": ('explain model.caan features.npy "w1" --item 0 -o new.png', "can't write new.png: Read-only file system"),
    "demo": ("demo new", "can't write new: Read-only file system"),
    "train": ("train data -o new.pt", "can't write new.pt"),
    "build-engine": ("build-engine model.caan --fp16", "can't write model.caan: Read-only file system"),
    "bench": ("bench model.caan", "there is no temporary folder for work in progress"),
    "eval": ("eval model.caan --data data", "there is no temporary folder for the images' states"),
}
SHORT = ("index", "delete", "html")


@pytest.fixture
def data(home, tiny_folder):
    """A data set beside the rest: every split the same."""
    (home / "data").mkdir()
    for split in ("train", "dev", "test"):
        for end in ("ims.npy", "caps.txt"):
            (home / "data" / f"{split}_{end}").write_bytes((tiny_folder / "data" / f"test_{end}").read_bytes())


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=() if name in SHORT else pytest.mark.attack) for name in WRITING]
)
def test_what_writes_says_where_it_can_not(data, poor, command):
    arguments, says = WRITING[command]
    if command == "build-engine":
        pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    code, out, err = poor(f"$caan {arguments}")
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("Error: ") and says in err and "None" not in err

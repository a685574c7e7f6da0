"""A bar is made only where it is seen: tqdm's holds a semaphore of the system's."""

import io
import subprocess
import sys

import pytest

from caan._progress import NoBar, progress_bar, write_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_where_is_no_terminal_there_is_no_bar(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    write_line("a line")
    with progress_bar(3, "work", "step", True) as bar:
        bar.update(2)
        bar.set_postfix(loss="1")
        bar.set_postfix_str("x")
        assert isinstance(bar, NoBar) and bar.n == 2
    assert stream is None or stream.getvalue() == "a line\n"


def test_a_terminal_has_one_if_it_is_wanted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(progress_bar(3, "work", "step", False), NoBar)
    with progress_bar(3, "work", "step", True, leave=False) as bar:
        bar.update(3)
        write_line("a line")
    assert "work" in sys.stderr.getvalue() and "a line\n" in sys.stderr.getvalue()


def test_a_search_makes_no_lock_between_processes(tiny_folder):
    """multiprocessing.synchronize holds the semaphores that were reported as leaked."""
    code = (
        "import sys, numpy as np\n"
        "from caan.runtime import Retriever\n"
        f"r = Retriever.open({str(tiny_folder / 'model.caan')!r}, backend='onnxruntime')\n"
        "gallery = r.encode_images(np.ones((3, 5, 12), np.float32), progress=True)\n"
        "r.search('w1', gallery, 2), r.search_many(['w1'], gallery, 2, progress=True)\n"
        "print({'tqdm', 'multiprocessing.synchronize'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")

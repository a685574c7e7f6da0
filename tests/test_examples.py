"""The examples run as a user runs them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caan.runtime import Gallery

EMBED = Path(__file__).parents[1] / "examples" / "embed.py"


@pytest.fixture
def gallery(tiny_folder, tiny_data, run, tmp_path):
    np.save(tmp_path / "features.npy", np.load(tiny_data / "test_ims.npy"))
    (tmp_path / "ids.txt").write_text("".join(f"photo-{n}\n" for n in range(6)))
    target = tmp_path / "gallery"
    ids = tmp_path / "ids.txt"
    outcome = run("index", tiny_folder / "model.caan", tmp_path / "features.npy", "--ids", ids, "-o", target)
    assert outcome.code == 0, outcome.err
    return target


def embed(*arguments, code=""):
    """The example as a program; `code` runs before it."""
    program = f"{code}\nimport runpy, sys\nsys.argv = {[str(EMBED), *map(str, arguments)]!r}\n"
    program += f"runpy.run_path({str(EMBED)!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_embed_answers_every_caption_by_id_and_shows_the_metrics(gallery):
    captions = [f"w{n} w{n + 1}" for n in range(10)]
    done = embed(gallery, *captions, "zebra")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in captions] == captions
    assert sum("photo-" in line for line in lines) == 3 * len(captions)
    assert "no word of 'zebra' is in the model's vocabulary" in done.stdout
    assert 'caan_search_requests_total{outcome="answered"} 10.0' in lines
    assert Gallery.open(gallery).ids is not None


def test_embed_runs_without_prometheus_client(gallery):
    done = embed(gallery, "w1", code="import sys; sys.modules['prometheus_client'] = None")
    assert done.returncode == 0 and "photo-" in done.stdout
    assert "[metrics]" in done.stderr and "caan_search" not in done.stdout


def test_embed_says_what_is_wrong_without_a_traceback(tmp_path):
    done = embed(tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(f"Error: {tmp_path} is not a gallery")


def test_embed_is_short_enough_to_read():
    assert len(EMBED.read_text(encoding="utf-8").splitlines()) < 60

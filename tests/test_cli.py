"""The commands print what the library computes, in text and in JSON; what is wrong input is in test_bad_*.py."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from caan.cli import caan
from caan.data.scan import open_split
from caan.metrics import five_fold_metrics, retrieval_metrics
from caan.runtime import Retriever


@pytest.fixture(scope="module")
def scores(tiny_folder):
    data = open_split(tiny_folder / "data")
    retriever = Retriever.open(tiny_folder / "model.caan")
    return retriever.score_matrix(retriever.encode_images(data.features), data.captions)


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(caan.commands))])
def test_every_command_explains_itself_and_names_the_exit_codes(run, command):
    done = run(*command, "--help")
    assert done.code == 0 and "Exit codes:" in done.out


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(caan.commands))])
def test_every_command_takes_h_for_help(run, command):
    done = run(*command, "-h")
    assert done.code == 0 and done.out == run(*command, "--help").out and "-h, --help" in done.out


def test_python_m_caan_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "caan", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("caan, version ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "nope.pt"], ["no checkpoint at nope.pt"]),
        (["export", "."], [". is a folder, not a checkpoint"]),
        (["export", "model.pt", "--vocab", "nope.json"], ["can't read the vocabulary nope.json"]),
        (["export", "model.pt", "--key-map", "nope.json"], ["can't read the key map nope.json"]),
        (["export", "model.pt", "--data", "nope"], ["no data set at nope"]),
        (["train", "nope"], ["no data set at nope"]),
        (["eval", "nope.pt", "--backend", "torch", "--data", "data"], ["no checkpoint at nope.pt"]),
    ],
)
def test_what_is_not_there_is_said_before_pytorch_is_imported(
    refused, monkeypatch, tmp_path, tiny_data, arguments, says
):
    (tmp_path / "model.pt").write_text("a file")
    for name in [name for name in sys.modules if name.startswith("caan.model.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would fail with exit code 4
    refused(*arguments, says=says)


@pytest.mark.parametrize("script", ["caan", "caan-export", "caan-build-engine", "caan-bench"])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_installed_scripts_start(script, option):
    path = shutil.which(script, path=str(sys.prefix) + "/bin")
    done = subprocess.run([path, option], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: {script} ")


def test_eval_prints_the_metrics_of_the_score_matrix(run, tiny_folder, scores):
    arguments = ["eval", tiny_folder / "model.caan", "--data", tiny_folder / "data"]
    expected = retrieval_metrics(scores)
    assert json.loads(run(*arguments, "--json").out) == expected.as_dict()
    text = run(*arguments).out
    assert f"rsum {expected.rsum:.2f}" in text and f"{expected.image_to_text.r5:.2f}" in text


def test_eval_of_a_checkpoint_with_pytorch_gives_the_bundle_s_metrics(run, tiny_folder, scores):
    done = run("eval", tiny_folder / "model.pt", "--backend", "torch", "--data", tiny_folder / "data", "--json")
    assert json.loads(done.out) == retrieval_metrics(scores).as_dict()


def test_eval_folds_is_the_mean_of_five(run, tiny_folder, tmp_path):
    data = open_split(tiny_folder / "data")
    np.save(tmp_path / "test_ims.npy", data.features[:5])
    (tmp_path / "test_caps.txt").write_text("".join(f"{caption}\n" for caption in data.captions[:25]))
    retriever = Retriever.open(tiny_folder / "model.caan")
    expected = five_fold_metrics(retriever.score_matrix(retriever.encode_images(data.features[:5]), data.captions[:25]))
    done = run("eval", tiny_folder / "model.caan", "--data", tmp_path, "--folds", "--json")
    assert json.loads(done.out) == expected.as_dict()


def test_index_then_search_finds_what_the_library_finds(run, tiny_folder, scores, tmp_path):
    names = [f"photo {n}.jpg" for n in range(6)]
    (tmp_path / "ids.txt").write_text("\n".join(names))
    ids = ["--ids", tmp_path / "ids.txt", "-o", tmp_path / "gallery"]
    bundle, features = tiny_folder / "model.caan", tiny_folder / "data" / "test_ims.npy"
    assert run("index", bundle, features, *ids, "--dtype", "float32").code == 0
    caption = open_split(tiny_folder / "data").captions[0]
    hits = json.loads(run("search", tmp_path / "gallery", caption, "--json").out)
    order = np.argsort(-scores[:, 0], kind="stable")
    assert [hit["index"] for hit in hits] == order.tolist()
    assert [hit["id"] for hit in hits] == [names[i] for i in order]
    assert np.abs(np.array([hit["score"] for hit in hits]) - scores[order, 0]).max() <= 1e-6
    lines = run("search", tmp_path / "gallery", caption, "-k", 2).out.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [names[i] for i in order[:2]]


def test_doctor_says_what_is_installed_and_what_is_not(run):
    report = json.loads(run("doctor", "--json").out)
    import onnxruntime

    assert onnxruntime.__version__ in (report["packages"]["onnxruntime"], report["packages"]["onnxruntime-gpu"])
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["backend onnxruntime, cpu"]["ok"] and checks["caan export"]["ok"]
    cuda = checks["backend onnxruntime, cuda"]
    assert cuda["ok"] or cuda["advice"]
    text = run("doctor").out
    assert all(check["detail"] in text for check in checks.values())


def test_export_with_data_compares_with_pytorch_and_records_it(run, tiny_folder, tmp_path, traced):
    target = tmp_path / "m.caan"
    done = run("export", tiny_folder / "model.pt", "-o", target, "--data", tiny_folder / "data")
    assert done.code == 0 and "max |Δ score|" in done.out
    checks = json.loads((target / "manifest.json").read_text())["precisions"]["fp32"]["checks"]
    assert checks[1]["metrics"]["rsum"] == checks[1]["reference"]["rsum"]


def test_train_s_defaults_are_the_library_s():
    from caan.model.train import TrainOptions

    options = TrainOptions()
    defaults = {
        option.name: option.default for option in caan.commands["train"].params if hasattr(options, option.name)
    }
    assert len(defaults) > 10
    assert {name: getattr(options, name) for name in defaults} == defaults

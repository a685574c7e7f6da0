"""Training: interruption, resumption and robustness."""

import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from caan.data.scan import open_split, write_split
from caan.data.vocabulary import Vocabulary
from caan.errors import CaanError, CheckpointError, DataError, InputError, OutputError
from caan.metrics import retrieval_metrics
from caan.model import train as training
from caan.model.checkpoint import load_checkpoint
from caan.model.objective import ranking_loss
from caan.model.train import TrainOptions, train

TINY = TrainOptions(embed_dim=8, word_dim=6, attention_dim=4, epochs=3, batch_size=8, learning_rate=5e-3, decay_every=2)
STEPS = 8  # 12 images × 5 captions in batches of 8
COLOURS = ("red", "green", "blue", "white", "black", "pink")
KINDS = ("dog", "cat", "tree", "boat")


@pytest.fixture
def data(tmp_path):
    """12 images of 3 regions for training, 6 for dev; the features encode the captions' words."""
    generator = np.random.default_rng(0)
    signatures = {word: generator.standard_normal(7).astype(np.float32) for word in (*COLOURS, *KINDS)}
    for split, count in (("train", 12), ("dev", 6)):
        features, captions = [], []
        for number in range(count):
            colour, kind = COLOURS[number % 6], KINDS[(number * 5 + number // 6) % 4]
            features.append(np.stack([signatures[colour], signatures[kind], signatures[colour] + signatures[kind]]))
            captions.append([f"{prefix} {colour} {kind}" for prefix in ("a", "the", "one", "this is a", "see the")])
        write_split(tmp_path / "data", split, np.stack(features), captions)
    return tmp_path / "data"


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n): Ctrl-C in the n-th step from here."""
    steps = 0

    def arm(count):
        def loss(*arguments, **keywords):
            nonlocal steps
            steps += 1
            if steps == count:
                os.kill(os.getpid(), signal.SIGINT)
            return ranking_loss(*arguments, **keywords)

        monkeypatch.setattr(training, "ranking_loss", loss)

    return arm


def content(path: Path):
    loaded = load_checkpoint(path)
    return loaded.model.state_dict(), loaded.vocabulary, loaded.metrics


def assert_equal(a, b):
    (state_a, *rest_a), (state_b, *rest_b) = a, b
    assert rest_a == rest_b
    assert all(torch.equal(state_a[name], state_b[name]) for name in state_a.keys() | state_b.keys())


def test_training_learns_and_keeps_the_best_epoch(data, tmp_path, capsys):
    report = train(data, tmp_path / "model.pt", TrainOptions(**{**vars(TINY), "epochs": 12, "decay_every": 8}))
    assert (report.epochs, report.interrupted) == (12, False)
    assert report.metrics.rsum > 500
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.metrics == {"split": "dev", "epoch": report.best_epoch, **report.metrics.as_dict()}
    assert capsys.readouterr().err.count("dev R@1") == 12
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["model.pt"]

    dev = open_split(data, "dev")
    tokens = [loaded.vocabulary.encode(caption) for caption in dev.captions]
    padded = torch.tensor([ids + [0] * (9 - len(ids)) for ids in tokens])
    lengths = torch.tensor([len(ids) for ids in tokens])
    features = torch.from_numpy(np.array(dev.features))
    scores = loaded.model(features, torch.full((6,), 3), padded, lengths)
    assert retrieval_metrics(scores.numpy(), dev.image_of_caption) == report.metrics


def test_padding_regions_do_not_count(data, tmp_path):
    """Training and its dev metrics are those of two regions, whatever the third holds."""
    states = []
    for value in (0, 100, np.nan):
        for split in ("train", "dev"):
            features = np.load(data / f"{split}_ims.npy")
            features[::2, 2] = value
            np.save(data / f"{split}_ims.npy", features)
            np.save(data / f"{split}_lengths.npy", np.where(np.arange(len(features)) % 2, 3, 2))
        report = train(data, tmp_path / f"{value}.pt", TINY, progress=False)
        states.append((content(tmp_path / f"{value}.pt"), report))
    for other in states[1:]:
        assert_equal(other[0], states[0][0])
        assert other[1] == states[0][1]


def test_the_dev_split_may_be_called_val(data, tmp_path):
    for path in data.glob("dev_*"):
        path.rename(path.with_name(path.name.replace("dev", "val")))
    assert train(data, tmp_path / "model.pt", TINY, progress=False).metrics is not None


def test_a_later_worse_epoch_does_not_replace_the_best(data, tmp_path, monkeypatch):
    epochs = 0

    def measured(scores, truth):
        nonlocal epochs
        epochs += 1
        return retrieval_metrics(scores * (-1 if epochs == 3 else 1), truth)

    monkeypatch.setattr(training, "retrieval_metrics", measured)
    report = train(data, tmp_path / "model.pt", TINY, progress=False)
    assert report.best_epoch == content(tmp_path / "model.pt")[2]["epoch"] < 3
    train(data, tmp_path / "short.pt", TrainOptions(**{**vars(TINY), "epochs": report.best_epoch}), progress=False)
    assert_equal(content(tmp_path / "model.pt"), content(tmp_path / "short.pt"))


def test_all_violations_count_in_the_first_epoch_and_each_epoch_is_shuffled_anew(data, tmp_path, monkeypatch):
    steps = []

    def loss(scores, images, margin, *, hardest):
        steps.append((hardest, images.tolist()))
        return ranking_loss(scores, images, margin, hardest=hardest)

    monkeypatch.setattr(training, "ranking_loss", loss)
    train(data, tmp_path / "model.pt", TINY, progress=False)
    assert [hardest for hardest, _ in steps] == [False] * STEPS + [True] * 2 * STEPS
    epochs = [[images for _, images in steps[start : start + STEPS]] for start in range(0, 3 * STEPS, STEPS)]
    assert epochs[0] != epochs[1] != epochs[2]
    for epoch in epochs:
        assert sorted(image for batch in epoch for image in batch) == sorted(5 * list(range(12)))


def test_the_same_seed_trains_the_same_model_whatever_ran_before(data, tmp_path):
    train(data, tmp_path / "a.pt", TINY, progress=False)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    train(data, tmp_path / "b.pt", TINY, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal(content(tmp_path / "a.pt"), content(tmp_path / "b.pt"))


@pytest.mark.parametrize("step", [1, 3, STEPS, STEPS + 1, 2 * STEPS + 5, 3 * STEPS])
def test_stopped_and_resumed_equals_uninterrupted(data, tmp_path, stop_after, step):
    whole = train(data, tmp_path / "whole.pt", TINY, progress=False)
    stop_after(step)
    stopped = train(data, tmp_path / "model.pt", TINY, progress=False)
    assert stopped.interrupted
    assert stopped.epochs == (step - 1) // STEPS
    assert (stopped.metrics is None) == (stopped.epochs == 0)
    assert (tmp_path / "model.pt").exists() == (stopped.epochs > 0)
    assert train(data, tmp_path / "model.pt", TINY, progress=False) == whole
    assert_equal(content(tmp_path / "model.pt"), content(tmp_path / "whole.pt"))
    assert not (tmp_path / "model.pt.resume").exists()


def test_a_crash_costs_no_more_than_the_epoch(data, tmp_path, monkeypatch):
    train(data, tmp_path / "whole.pt", TINY, progress=False)
    steps = 0

    def crash(*arguments, **keywords):
        nonlocal steps
        steps += 1
        if steps == STEPS + 3:
            raise MemoryError
        return ranking_loss(*arguments, **keywords)

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(training, "ranking_loss", crash)
        train(data, tmp_path / "model.pt", TINY, progress=False)
    train(data, tmp_path / "model.pt", TINY, progress=False)
    assert_equal(content(tmp_path / "model.pt"), content(tmp_path / "whole.pt"))


def test_ctrl_c_says_where_the_state_is_and_leaves_the_handler_alone(data, tmp_path, stop_after, capsys):
    handler = signal.getsignal(signal.SIGINT)
    stop_after(STEPS + 2)
    train(data, tmp_path / "model.pt", TINY)
    assert f"stopped in epoch 2; rerun to resume from {tmp_path / 'model.pt.resume'}" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    load_checkpoint(tmp_path / "model.pt")


def test_a_second_ctrl_c_stops_at_once(data, tmp_path, monkeypatch):
    def insist(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return ranking_loss(*arguments, **keywords)

    monkeypatch.setattr(training, "ranking_loss", insist)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "model.pt", TINY, progress=False)


def test_a_resumed_training_whose_checkpoint_was_removed_writes_one_again(data, tmp_path, stop_after):
    stop_after(2 * STEPS + 1)
    train(data, tmp_path / "model.pt", TINY, progress=False)
    (tmp_path / "model.pt").unlink()
    report = train(data, tmp_path / "model.pt", TINY, progress=False)
    assert report.best_epoch == 3
    assert content(tmp_path / "model.pt")[2]["epoch"] == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "empty", "incomplete", "code"])
def test_a_damaged_resume_file_is_refused_with_the_command_that_mends_it(data, tmp_path, stop_after, damage):
    stop_after(STEPS + 2)
    output, state = tmp_path / "model.pt", tmp_path / "model.pt.resume"
    train(data, output, TINY, progress=False)
    kept, good = output.read_bytes(), bytearray(state.read_bytes())
    if damage == "cut":
        state.write_bytes(good[: len(good) // 2])
    elif damage == "flip":
        at = good.index(torch.load(state)["model"]["scorer.K"].numpy().tobytes())
        good[at + 5] ^= 0x40
        state.write_bytes(good)
    elif damage == "foreign":
        state.write_bytes(kept)
    elif damage == "empty":
        state.write_bytes(b"")
    elif damage == "incomplete":
        torch.save({key: value for key, value in torch.load(state).items() if key != "step"}, state)
    else:
        torch.save({"format": "caan-training", "bad": Path("x")}, state)
    with pytest.raises(CheckpointError, match=r"model\.pt\.resume .*\n.*caan train .* --restart"):
        train(data, output, TINY, progress=False)
    assert output.read_bytes() == kept
    assert not train(data, output, TINY, restart=True, progress=False).interrupted


def test_the_state_of_another_training_is_refused(data, tmp_path, stop_after):
    stop_after(2)
    train(data, tmp_path / "model.pt", TINY, progress=False)
    with pytest.raises(CheckpointError, match=r"its embed_dim was 8, now 9"):
        train(data, tmp_path / "model.pt", TrainOptions(**{**vars(TINY), "embed_dim": 9}), progress=False)
    captions = (data / "train_caps.txt").read_text().replace("red", "blue", 1)
    (data / "train_caps.txt").write_text(captions)
    with pytest.raises(CheckpointError, match="is of another training: its data was"):
        train(data, tmp_path / "model.pt", TINY, progress=False)


def test_more_epochs_may_be_asked_for_when_it_goes_on(data, tmp_path, stop_after):
    stop_after(2)
    train(data, tmp_path / "model.pt", TINY, progress=False)
    assert train(data, tmp_path / "model.pt", TrainOptions(**{**vars(TINY), "epochs": 4}), progress=False).epochs == 4


def test_a_finished_checkpoint_is_not_overwritten_unasked(data, tmp_path):
    train(data, tmp_path / "model.pt", TINY, progress=False)
    kept = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(OutputError, match=r"exists already; train again with: caan train .* --restart"):
        train(data, tmp_path / "model.pt", TINY, progress=False)
    assert (tmp_path / "model.pt").read_bytes() == kept


def test_a_target_that_can_not_be_written_is_refused_before_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ranking_loss", pytest.fail)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="file"):
        train(data, tmp_path / "file" / "model.pt", TINY, progress=False)
    with pytest.raises(OutputError, match="it is a folder"):
        train(data, tmp_path / "folder", TINY, progress=False)


def test_a_full_disk_keeps_the_last_state_and_checkpoint(data, tmp_path, stop_after, monkeypatch):
    stop_after(STEPS + 2)
    output, state = tmp_path / "model.pt", tmp_path / "model.pt.resume"
    train(data, output, TINY, progress=False)
    before = output.read_bytes(), state.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="is full"):
            train(data, output, TINY, progress=False)
    assert (output.read_bytes(), state.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "model.pt", "model.pt.resume"]


@pytest.mark.parametrize("name", ["dev_ims.npy", "dev_caps.txt", "train_ims.npy", "train_caps.txt"])
def test_a_missing_file_is_named(data, tmp_path, name):
    (data / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        train(data, tmp_path / "model.pt", TINY, progress=False)
    assert not list(tmp_path.glob("model*"))


def test_features_of_two_dimensions_are_refused(data, tmp_path):
    np.save(data / "dev_ims.npy", np.load(data / "dev_ims.npy")[..., :5])
    with pytest.raises(DataError, match=r"train_ims\.npy have dimension 7, those of dev_ims\.npy 5"):
        train(data, tmp_path / "model.pt", TINY, progress=False)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_nan_in_the_features_is_found(data, tmp_path, split):
    features = np.load(data / f"{split}_ims.npy")
    features[4, 1, 2] = np.nan
    np.save(data / f"{split}_ims.npy", features)
    with pytest.raises(DataError, match=f"{split}_ims.npy" + (": the features of image 4" if split == "train" else "")):
        train(data, tmp_path / "model.pt", TINY, progress=False)
    assert not (tmp_path / "model.pt").exists()


def test_a_loss_that_is_not_finite_stops_the_training(data, tmp_path, monkeypatch):
    steps = 0

    def explode(*arguments, **keywords):
        nonlocal steps
        steps += 1
        return ranking_loss(*arguments, **keywords) * (float("inf") if steps == STEPS + 2 else 1)

    monkeypatch.setattr(training, "ranking_loss", explode)
    with pytest.raises(CaanError, match=r"not? longer finite \(epoch 2, step 2\).*--restart --learning-rate 0\.00125"):
        train(data, tmp_path / "model.pt", TINY, progress=False)
    assert all(torch.isfinite(tensor).all() for tensor in content(tmp_path / "model.pt")[0].values())


@pytest.mark.parametrize(
    ("option", "value"),
    [("epochs", 0), ("batch_size", 1), ("learning_rate", 0.0), ("decay", float("nan")), ("embed_dim", -1)],
)
def test_senseless_options_are_refused(option, value):
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} is"):
        TrainOptions(**{option: value})


def test_the_data_sets_own_vocabulary_is_used(data, tmp_path):
    Vocabulary.build([" ".join(COLOURS)], "word-punct", min_count=1).save(data / "vocab.json")
    train(data, tmp_path / "model.pt", TINY, progress=False)
    vocabulary = load_checkpoint(tmp_path / "model.pt").vocabulary
    assert (vocabulary.tokenizer, len(vocabulary)) == ("word-punct", 4 + len(COLOURS))


def test_features_are_read_a_batch_at_a_time(data, tmp_path, monkeypatch):
    taken = []

    def gather(features, lengths, images, device):
        assert isinstance(features, np.memmap)
        taken.append(len(images))
        return real(features, lengths, images, device)

    real = training.gather
    monkeypatch.setattr(training, "gather", gather)
    train(data, tmp_path / "model.pt", TINY, progress=False)
    assert max(taken) == TINY.batch_size


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_the_demo_reaches_half_at_rank_one_on_unseen_scenes(demo_run):
    loaded = load_checkpoint(demo_run.checkpoint)
    test = open_split(demo_run.data, "test")
    assert (len(test.features), len(test.captions)) == (200, 1000)
    features = torch.from_numpy(np.array(test.features))
    tokens = [torch.tensor(loaded.vocabulary.encode(caption)) for caption in test.captions]
    lengths = torch.tensor([len(ids) for ids in tokens])
    states = loaded.model.text_states(torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True), lengths)
    images, counts = loaded.model.image_states(features), torch.full((200,), features.shape[1])
    rows = [
        torch.cat(
            [
                loaded.model.score_states(images[i : i + 25], counts[i : i + 25], *tile)
                for tile in tiles(states, lengths)
            ],
            1,
        )
        for i in range(0, 200, 25)
    ]
    metrics = retrieval_metrics(torch.cat(rows).numpy())
    assert metrics.image_to_text.r1 >= 50
    assert metrics.text_to_image.r1 >= 50


def tiles(states, lengths):
    return zip(states.split(50), lengths.split(50), strict=True)

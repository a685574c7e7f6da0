"""Training: in-batch hardest negatives, Adam, step decay; resumable at every step, the best epoch kept."""

from __future__ import annotations

import hashlib
import math
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._files import check_file_target
from .._progress import progress_bar, write_line
from ..data.scan import ScanSplit, find_split, open_split
from ..data.vocabulary import Vocabulary
from ..errors import CaanError, CheckpointError, DataError, InputError, MissingError, OutputError
from ..metrics import RetrievalMetrics, retrieval_metrics
from .batching import batches_of, gather, pad
from .caan import CAAN, CaanConfig
from .checkpoint import save_checkpoint
from .objective import ranking_loss
from .resume import Interrupt, load_state, save_state

# Images and captions per scorer call on the dev split.
_TILE = 32
_PROGRESS = ("epoch", "step", "loss", "best")
_NOTHING_YET: dict[str, Any] = {"epoch": 0, "rsum": -math.inf, "metrics": {}}


@dataclass(frozen=True)
class TrainOptions:
    """Hyperparameters of model and training. The defaults suit the demo world: a minute on one core.

    Raises InputError for a number out of range.
    """

    embed_dim: int = 96
    word_dim: int = 64
    attention_dim: int = 32
    attention_scale: float = 6.0
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 2e-3
    decay_every: int = 4  # epochs
    decay: float = 0.3
    margin: float = 0.2
    clip_norm: float = 2.0
    sum_epochs: int = 1  # first epochs, in which all violations count, not only the hardest
    seed: int = 0
    tokenizer: str = "whitespace"  # for a new vocabulary; a vocab.json in the data set has its own
    device: str = "cpu"
    threads: int = 1  # of PyTorch; small models such as the demo's gain little from more

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = {"seed": 0, "sum_epochs": 0, "batch_size": 2}.get(item.name, 1)
            if item.type == "int" and value < least:
                raise InputError(f"--{item.name.replace('_', '-')} is {value}; it must be at least {least}")
            if item.type == "float" and not (math.isfinite(value) and value > 0):
                raise InputError(f"--{item.name.replace('_', '-')} is {value}; it must be a positive number")


@dataclass(frozen=True)
class TrainReport:
    """The result of a training."""

    metrics: RetrievalMetrics | None  # of the checkpoint on the dev split; None before the first finished epoch
    best_epoch: int  # from 1; 0 before the first finished epoch
    epochs: int  # finished
    interrupted: bool  # by Ctrl-C


def train(
    data: Path, output: Path, options: TrainOptions | None = None, *, restart: bool = False, progress: bool = True
) -> TrainReport:
    """Train a CAAN on a SCAN data set's train split; keep the epoch with the best rsum on its dev split.

    Writes the checkpoint `output`, and `output`.resume beside it until the training has finished. After Ctrl-C or a
    crash, the same call resumes and gives the same result as an uninterrupted training. `restart`: start again,
    ignoring existing files. `progress`: bars and one line per epoch on standard error.

    Raises DataError for data that can't be used, CheckpointError for a resume file that is damaged or of another
    training, OutputError if a file can't be written or `output` exists, and CaanError if the loss is no longer finite.
    """
    options = options or TrainOptions()
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        trainer = _Trainer(data, output, options, progress)
        trainer.begin(restart)
        return trainer.run()
    finally:
        torch.set_num_threads(threads)


class _Trainer:
    def __init__(self, data: Path, output: Path, options: TrainOptions, progress: bool) -> None:
        self.split, self.dev, self.vocabulary = _open_data(data, options.tokenizer)
        self.tokens = [self.vocabulary.encode(caption) for caption in self.split.captions]
        self.dev_tokens = [self.vocabulary.encode(caption) for caption in self.dev.captions]
        if options.device == "cuda" and not torch.cuda.is_available():
            raise MissingError("PyTorch sees no CUDA device; use device 'cpu'")
        self.output, self.options, self.progress = output, options, progress
        self.state_path = output.with_name(f"{output.name}.resume")
        self.command = shlex.join(["caan", "train", str(data), "-o", str(output)])
        _, regions, region_dim = self.split.features.shape
        config = CaanConfig(
            region_dim,
            options.embed_dim,
            options.word_dim,
            options.attention_dim,
            len(self.vocabulary),
            regions,
            options.attention_scale,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.model = CAAN(config).to(options.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.learning_rate)
        self.epoch, self.step, self.loss = 0, 0, 0.0  # loss: sum over this epoch's steps
        self.best = dict(_NOTHING_YET)
        self._fingerprint = _fingerprint(self.split, self.dev, self.vocabulary)

    def begin(self, restart: bool) -> None:
        check_file_target(self.output)
        if self.output.exists() and not self.output.is_file():
            raise OutputError(f"{self.output} is not a file; name another with -o")
        if self.state_path.exists() and not restart:
            self._restore()
        elif self.output.exists() and not restart:
            raise OutputError(f"{self.output} exists already; train again with: {self.command} --restart")
        self._save_state()  # fail now, not after an hour, if it can't be written

    def run(self) -> TrainReport:
        with Interrupt() as interrupt:
            while self.epoch < self.options.epochs:
                self._train_epoch(interrupt)
                self._save_state()
                metrics = self._evaluate(interrupt)
                if metrics is None:
                    self._say(f"stopped in epoch {self.epoch + 1}; rerun to resume from {self.state_path}")
                    return self._report(interrupted=True)
                self._keep_best(metrics)
                self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0
                self._save_state()
        self.state_path.unlink()
        return self._report(interrupted=False)

    def _report(self, *, interrupted: bool) -> TrainReport:
        metrics = RetrievalMetrics.from_dict(self.best["metrics"]) if self.best["epoch"] else None
        return TrainReport(metrics, self.best["epoch"], self.epoch, interrupted)

    def _train_epoch(self, interrupt: Interrupt) -> None:
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * options.decay ** (self.epoch // options.decay_every)
        lengths = np.array([len(ids) for ids in self.tokens])
        batches = batches_of(lengths, options.batch_size, (options.seed, self.epoch))
        done = sum(len(batch) for batch in batches[: self.step])
        name = f"epoch {self.epoch + 1}/{options.epochs}"
        shape = {"initial": done, "leave": False, "unit_scale": False}
        with progress_bar(len(self.tokens), name, " captions", self.progress, **shape) as bar:
            for batch in batches[self.step :]:
                self.loss += self._learn(batch)
                self.step += 1
                done += len(batch)
                bar.set_postfix(loss=f"{self.loss / done:.4f}", refresh=False)
                bar.update(len(batch))
                if interrupt.requested:
                    return

    def _learn(self, batch: NDArray[np.int64]) -> float:
        """One step on captions (B,) with their images. Returns the loss before the step, summed over the batch."""
        options = self.options
        images = self.split.image_of_caption[batch]
        features, regions = gather(self.split.features, self.split.lengths, images, options.device)  # (B, R, F), (B,)
        tokens, lengths = pad([self.tokens[index] for index in batch], options.device)
        scores = self.model.score_states(
            self.model.image_states(features), regions, self.model.text_states(tokens, lengths), lengths
        )  # (B, B)
        loss = ranking_loss(
            scores,
            torch.from_numpy(images).to(options.device),
            options.margin,
            hardest=self.epoch >= options.sum_epochs,
        )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.clip_norm)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise self._diverged(features, images)
        self.optimizer.step()
        return value

    def _diverged(self, features: Tensor, images: NDArray[np.int64]) -> CaanError:
        where = f"epoch {self.epoch + 1}, step {self.step + 1}"
        broken = ~torch.isfinite(features).all(-1).all(-1).cpu().numpy()  # (B,)
        if broken.any():
            path = self.split.folder / "train_ims.npy"
            return DataError(f"{path}: the features of image {images[broken][0]} hold NaN or infinity ({where})")
        return CaanError(
            f"the loss is no longer finite ({where}); start again with a smaller learning rate:"
            f" {self.command} --restart --learning-rate {self.options.learning_rate / 4:g}"
        )

    @torch.inference_mode()
    def _evaluate(self, interrupt: Interrupt) -> RetrievalMetrics | None:
        """The metrics of all pairs of the dev split; None after Ctrl-C."""
        device, dev = self.options.device, self.dev
        # Captions of similar length share a tile, to minimise padding.
        order = np.argsort([len(ids) for ids in self.dev_tokens], kind="stable")
        scores = np.empty((len(dev.features), len(order)), dtype=np.float32)
        captions = []
        for columns in (order[tile] for tile in _tiles(len(order))):
            tokens, lengths = pad([self.dev_tokens[index] for index in columns], device)
            captions.append((columns, self.model.text_states(tokens, lengths), lengths))
        for rows in _tiles(len(dev.features)):
            images = np.arange(rows.start, rows.stop)
            features, regions = gather(dev.features, dev.lengths, images, device)
            states = self.model.image_states(features)
            for columns, text_states, lengths in captions:
                if interrupt.requested:
                    return None
                tile = self.model.score_states(states, regions, text_states, lengths)
                scores[rows, columns] = tile.float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise DataError(
                f"some scores of the dev split are NaN or infinite; look for NaN in {dev.folder / 'dev_ims.npy'}"
            )
        return retrieval_metrics(scores, dev.image_of_caption)

    def _keep_best(self, metrics: RetrievalMetrics) -> None:
        better = metrics.rsum > self.best["rsum"]
        if better:
            self.best = {"epoch": self.epoch + 1, "rsum": metrics.rsum, "metrics": metrics.as_dict()}
            record = {"split": "dev", "epoch": self.epoch + 1, **metrics.as_dict()}
            save_checkpoint(self.output, self.model, self.vocabulary, record)
        i, t = metrics.image_to_text, metrics.text_to_image
        self._say(
            f"epoch {self.epoch + 1}/{self.options.epochs}  loss {self.loss / len(self.tokens):.4f}  dev R@1"
            f" {i.r1:.1f} image→text, {t.r1:.1f} text→image, rsum {metrics.rsum:.1f}{' (best)' if better else ''}"
        )

    def _say(self, line: str) -> None:
        if self.progress:
            write_line(line)

    def _save_state(self) -> None:
        progress = {name: getattr(self, name) for name in _PROGRESS}
        parameters = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_state(self.state_path, {**self._run(), **progress, **parameters})

    def _restore(self) -> None:
        state = load_state(self.state_path, self._run(), self.command)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in _PROGRESS:
                setattr(self, name, state[name])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.state_path} is incomplete;\nstart again with: {self.command} --restart"
            ) from error
        if not self.output.exists():
            self.best = dict(_NOTHING_YET)  # the best checkpoint is gone, so the next epoch is the best

    def _run(self) -> dict[str, Any]:
        """What identifies this run: another run's state must not be resumed."""
        options = {name: value for name, value in asdict(self.options).items() if name not in ("epochs", "threads")}
        return {**options, "data": self._fingerprint}


def _tiles(count: int) -> list[slice]:
    return [slice(start, min(start + _TILE, count)) for start in range(0, count, _TILE)]


def _open_data(data: Path, tokenizer: str) -> tuple[ScanSplit, ScanSplit, Vocabulary]:
    split = open_split(data, "train")
    try:
        find_split(data, "dev")
    except DataError as error:
        raise DataError(f"{error}; training keeps the best epoch on the dev split") from error
    dev = open_split(data, "dev")
    if split.features.shape[2] != dev.features.shape[2]:
        raise DataError(
            f"{data}: the features of train_ims.npy have dimension {split.features.shape[2]}, those of dev_ims.npy"
            f" {dev.features.shape[2]}; extract both with the same detector"
        )
    if split.vocabulary_path.exists():
        return split, dev, Vocabulary.load(split.vocabulary_path)
    return split, dev, Vocabulary.build(split.captions, tokenizer)


def _fingerprint(split: ScanSplit, dev: ScanSplit, vocabulary: Vocabulary) -> str:
    content: list[Any] = [split.features.shape, split.captions, dev.features.shape, dev.captions, vocabulary.as_dict()]
    for lengths in (split.lengths, dev.lengths):
        content += [] if lengths is None else [lengths.tolist()]
    return hashlib.sha256(repr(content).encode()).hexdigest()

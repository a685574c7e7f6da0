"""Training: in-batch hardest negatives, Adam, step decay; resumable at every step, the best epoch kept."""

from __future__ import annotations

import hashlib
import io
import math
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from .._files import atomic_file
from ..data.scan import ScanSplit, open_split
from ..data.vocabulary import Vocabulary
from ..errors import CaanError, CheckpointError, DataError, InputError, OutputError
from ..metrics import RetrievalMetrics, retrieval_metrics
from .caan import CAAN, CaanConfig
from .checkpoint import save_checkpoint
from .objective import ranking_loss

_FORMAT, _VERSION = "caan-training", 1
# Batches are cut from this many batches' captions sorted by length, so that little of a batch is padding.
_SORTED_BATCHES = 8
# Images × captions that are scored at a time on the dev split.
_TILE = 32


@dataclass(frozen=True)
class TrainOptions:
    """Sizes of the model and of the training. The defaults are the demo world's: a minute on one core.

    Raises InputError for a number that makes no sense.
    """

    embed_dim: int = 96
    word_dim: int = 64
    attention_dim: int = 32
    attention_scale: float = 6.0
    epochs: int = 6
    batch_size: int = 32
    learning_rate: float = 2e-3
    decay_every: int = 4  # epochs
    decay: float = 0.3
    margin: float = 0.2
    clip_norm: float = 2.0
    sum_epochs: int = 1  # at the start, in which all violations count, not the hardest alone
    seed: int = 0
    device: str = "cpu"
    threads: int = 1  # of PyTorch; models as small as the demo's gain little from more

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = {"seed": 0, "sum_epochs": 0, "batch_size": 2}.get(item.name, 1)
            if item.type == "int" and value < least:
                raise InputError(f"--{item.name.replace('_', '-')} is {value}; it must be at least {least}")
            if item.type == "float" and not (math.isfinite(value) and value > 0):
                raise InputError(f"--{item.name.replace('_', '-')} is {value}; it must be a positive number")


@dataclass(frozen=True)
class TrainResult:
    """The checkpoint that was kept, and what it reaches on the dev split."""

    checkpoint: Path
    epoch: int  # from 1
    metrics: dict[str, Any]  # RetrievalMetrics.as_dict()


class TrainingInterrupted(CaanError):
    """Ctrl-C: the state is saved, and the message says how to go on."""

    exit_code = 130


def train(
    data: Path,
    output: Path,
    options: TrainOptions | None = None,
    *,
    resume: bool | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train a CAAN on a SCAN data set's train split; keep the epoch with the best rsum on its dev split.

    Writes the checkpoint `output`, and beside it `output`.resume while the training lasts. `resume`: True goes on
    from that file, to the same result as if there had been no interruption; False starts anew; None starts anew but
    refuses to overwrite an interrupted training. `progress`: bars and one line per epoch on standard error.

    Raises DataError for data that can't be used, CheckpointError for a damaged or unfitting resume file, InputError
    for one that is missing or in the way, OutputError if a file can't be written, TrainingInterrupted after Ctrl-C,
    and CaanError if the loss is no longer finite.
    """
    options = options or TrainOptions()
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        trainer = _Trainer(data, output, options, progress)
        trainer.begin(resume)
        return trainer.run()
    finally:
        torch.set_num_threads(threads)


class _Trainer:
    def __init__(self, data: Path, output: Path, options: TrainOptions, progress: bool) -> None:
        self.split, self.dev, self.vocabulary = _open_data(data)
        self.tokens = [self.vocabulary.encode(caption) for caption in self.split.captions]
        self.dev_tokens = [self.vocabulary.encode(caption) for caption in self.dev.captions]
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
        self.epoch, self.step, self.loss = 0, 0, 0.0  # loss: summed over this epoch's steps
        self.best: dict[str, Any] = {"epoch": 0, "rsum": -math.inf, "metrics": {}}

    def begin(self, resume: bool | None) -> None:
        if resume:
            self._restore()
        elif resume is None and self.state_path.exists():
            raise InputError(
                f"{self.state_path} holds an interrupted training; go on with: {self.command} --resume\n"
                f"or start anew with: {self.command} --restart"
            )
        if self.output.is_dir():
            raise OutputError(f"{self.output} is a folder; name a file with -o")
        self._save_state()  # now, rather than after an hour, if it can't be written

    def run(self) -> TrainResult:
        with _Interrupt() as interrupt:
            while self.epoch < self.options.epochs:
                self._train_epoch(interrupt)
                self._save_state()
                if interrupt.requested:
                    raise self._interrupted()
                self._keep_best(self._evaluate(interrupt))
                self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0
                self._save_state()
        self.state_path.unlink()
        return TrainResult(self.output, self.best["epoch"], self.best["metrics"])

    def _train_epoch(self, interrupt: _Interrupt) -> None:
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * options.decay ** (self.epoch // options.decay_every)
        lengths = np.array([len(ids) for ids in self.tokens])
        batches = _batches(lengths, options.batch_size, (options.seed, self.epoch))
        done = sum(len(batch) for batch in batches[: self.step])
        with tqdm(
            total=len(self.tokens),
            initial=done,
            desc=f"epoch {self.epoch + 1}/{options.epochs}",
            unit=" captions",
            leave=False,
            disable=None if self.progress else True,
        ) as bar:
            for batch in batches[self.step :]:
                self.loss += self._learn(batch)
                self.step += 1
                done += len(batch)
                bar.set_postfix(loss=f"{self.loss / done:.4f}", refresh=False)
                bar.update(len(batch))
                if interrupt.requested:
                    return

    def _learn(self, batch: NDArray[np.int64]) -> float:
        """One step on these captions (B,), each with its image; the loss before it, summed over the batch."""
        options = self.options
        images = self.split.image_of_caption[batch]
        features = _gather(self.split.features, images, options.device)  # (B, R, F)
        regions = _region_counts(features)
        tokens, lengths = _pad([self.tokens[index] for index in batch], options.device)
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
        value = float(loss)
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
    def _evaluate(self, interrupt: _Interrupt) -> RetrievalMetrics:
        """The metrics of all pairs of the dev split."""
        device, dev = self.options.device, self.dev
        # Captions of like length share a tile, so that little of it is padding.
        order = np.argsort([len(ids) for ids in self.dev_tokens], kind="stable")
        scores = np.empty((len(dev.features), len(order)), dtype=np.float32)
        captions = []
        for tile in _tiles(len(order)):
            tokens, lengths = _pad([self.dev_tokens[index] for index in order[tile]], device)
            captions.append((order[tile], self.model.text_states(tokens, lengths), lengths))
        for rows in _tiles(len(dev.features)):
            features = _gather(dev.features, np.arange(rows.start, min(rows.stop, len(dev.features))), device)
            states = self.model.image_states(features)
            for columns, text_states, lengths in captions:
                if interrupt.requested:
                    raise self._interrupted()
                tile_scores = self.model.score_states(states, _region_counts(features), text_states, lengths)
                scores[rows, columns] = tile_scores.float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise DataError(
                f"some scores of the dev split are NaN or infinite; look for NaN in {dev.folder / 'dev_ims.npy'}"
            )
        return retrieval_metrics(scores, dev.image_of_caption)

    def _keep_best(self, metrics: RetrievalMetrics) -> None:
        better = metrics.rsum > self.best["rsum"]
        if better:
            self.best = {"epoch": self.epoch + 1, "rsum": metrics.rsum, "metrics": metrics.as_dict()}
            kept = {"split": "dev", "epoch": self.epoch + 1, **metrics.as_dict()}
            save_checkpoint(self.output, self.model, self.vocabulary, kept)
        if self.progress:
            i, t = metrics.image_to_text, metrics.text_to_image
            tqdm.write(
                f"epoch {self.epoch + 1}/{self.options.epochs}  loss {self.loss / len(self.tokens):.4f}  dev R@1"
                f" {i.r1:.1f} image→text, {t.r1:.1f} text→image, rsum {metrics.rsum:.1f}{' (best)' if better else ''}",
                file=sys.stderr,
            )

    def _interrupted(self) -> TrainingInterrupted:
        kept = f"the best checkpoint so far is {self.output}" if self.best["epoch"] else "no checkpoint yet"
        return TrainingInterrupted(
            f"training stopped in epoch {self.epoch + 1} of {self.options.epochs}, {kept};\n"
            f"go on with: {self.command} --resume"
        )

    def _save_state(self) -> None:
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "options": asdict(self.options),
            "data": self._fingerprint(),
            **{name: getattr(self, name) for name in ("epoch", "step", "loss", "best")},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_file(self.state_path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

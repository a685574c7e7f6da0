"""Calibration on real photos and captions."""

import numpy as np
import onnx
import pytest

from caan.bundle import open_bundle
from caan.calibration.calibrate import calibrate
from caan.calibration.observe import activation_inputs, observe
from caan.calibration.pairs import SampleSize
from caan.data.scan import open_split
from caan.runtime import Retriever

pytestmark = pytest.mark.slow  # needs a trained model


def test_ranges_of_train_photos_fit_unseen_ones(flickr8k, flickr8k_bundle, cache_folder):
    opened = open_bundle(flickr8k_bundle)
    result = calibrate(opened, open_split(flickr8k, "train"), method="mse", size=SampleSize(32, 1024))
    assert (result.record["images"], result.record["pairs"], result.record["positives"]) == (32, 1024, 8)
    assert len(result.held_out) >= 400
    data, retriever = open_split(flickr8k), Retriever.open(flickr8k_bundle)
    images, regions = retriever.encode_images(data.features[:8]).gather(np.arange(8))
    texts = retriever.encode_captions(data.captions[:40])
    graph = onnx.load(opened.graph("scorer", "fp32"))
    tensors = sorted({name for names in activation_inputs(graph).values() for name in names})
    signal, noise = dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    feeds = []
    for caption in range(40):
        states, words = texts.gather(np.array([caption]))
        feeds.append({"image_states": images, "image_lengths": regions, "text_states": states, "text_lengths": words})
    for values in observe(graph, tensors, feeds):
        for name, x in values.items():
            scale = result.ranges["scorer"][name] / 127
            signal[name] += float((x**2).sum())
            noise[name] += float(((x - scale * np.clip(np.rint(x / scale), -127, 127)) ** 2).sum())
    # Eight bits over a bell that fills the range give about 40 dB, over an attention less.
    decibels = {name: 10 * np.log10(signal[name] / noise[name]) for name in tensors}
    assert min(decibels.values()) > 25, decibels

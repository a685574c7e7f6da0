"""The main job on real input: a CAAN trained on Flickr8k, real photos' features and human captions."""

import numpy as np
import pytest

from caan.data.scan import open_split
from caan.export.to_bundle import export_checkpoint
from caan.metrics import retrieval_metrics
from caan.model.checkpoint import load_checkpoint
from caan.runtime import Retriever

IMAGES = 60


@pytest.fixture(scope="module")
def bundle(make_once, flickr8k):
    source = flickr8k / "model.pt"

    def make(folder):
        export_checkpoint(load_checkpoint(source), source, folder / "model.caan")

    return make_once("flickr8k", make) / "model.caan"


def test_onnxruntime_scores_real_pairs_as_pytorch_does(flickr8k, bundle):
    data = open_split(flickr8k)
    captions, truth = data.captions[: 5 * IMAGES], data.image_of_caption[: 5 * IMAGES]
    scores = {}
    for backend, path in (("torch", flickr8k / "model.pt"), ("onnxruntime", bundle)):
        retriever = Retriever.open(path, backend)
        scores[backend] = retriever.score_matrix(retriever.encode_images(data.features[:IMAGES]), captions)
    assert np.abs(scores["torch"] - scores["onnxruntime"]).max() <= 1e-5
    found, expected = (retrieval_metrics(scores[name], truth) for name in ("onnxruntime", "torch"))
    assert abs(found.rsum - expected.rsum) <= 0.1
    # 60 of the 1,000 photos are an easier task than the published one; a model that saw nothing gets about 55
    assert expected.rsum > 350


def test_a_typed_caption_finds_dogs_in_snow(flickr8k, bundle):
    data = open_split(flickr8k)
    retriever = Retriever.open(bundle)
    gallery = retriever.encode_images(data.features[:IMAGES], ids=data.ids and data.ids[:IMAGES])
    hits = retriever.search("Two dogs play in the snow", gallery, k=3)
    found = [" ".join(data.captions[5 * hit.index : 5 * hit.index + 5]) for hit in hits]
    assert any("dogs" in text and "snow" in text for text in found)

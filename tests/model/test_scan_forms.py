"""SCAN-family checkpoints in the forms that public code saves: the same model from all, or a refusal that says why."""

import json
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque, namedtuple
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from caan.errors import CheckpointError
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import ScanOptions, load_checkpoint
from tests.conftest import scan_parts_of

CONFIG = CaanConfig(region_dim=6, embed_dim=5, word_dim=4, attention_dim=3, vocab_size=24)


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(3)
    return CAAN(CONFIG).state_dict()


@pytest.fixture
def parts(state):
    """Image, text and scorer state dicts in SCAN's names."""
    return scan_parts_of(state)


@pytest.fixture
def load(tmp_path, vocabulary):
    """load(content, key_map=…, …): save a file with this content and load it."""

    def call(content, key_map=None, protocol=2, **options):
        vocabulary.save(tmp_path / "vocab.json")
        if key_map is not None:
            (tmp_path / "map.json").write_text(json.dumps(key_map))
            options["key_map"] = tmp_path / "map.json"
        torch.save(content, tmp_path / "a.pth.tar", pickle_protocol=protocol)
        return load_checkpoint(tmp_path / "a.pth.tar", ScanOptions(tmp_path / "vocab.json", **options))

    return call


@pytest.fixture
def loads(load, state):
    """loads(content, …): a file with this content holds the very parameters."""

    def check(content, **options):
        loaded = load(content, **options)
        for name, tensor in loaded.model.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=1e-6, atol=1e-7)
        return loaded

    return check


@pytest.fixture
def refusal(load):
    """refusal(content, …): the message that refuses it."""

    def check(content, **options):
        with pytest.raises(CheckpointError) as error:
            load(content, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    return check


def flat(parts, names=("img_enc", "txt_enc", "caan"), wrapper=""):
    pairs = zip(names, parts, strict=True)
    return OrderedDict((f"{wrapper}{part}.{key}", value) for part, own in pairs for key, value in own.items())


def renamed(part, changes):
    return {next((key.replace(a, b) for a, b in changes.items() if a in key), key): part[key] for key in part}


FORMS = {
    "a list": lambda parts: {"model": parts, "opt": Namespace()},
    "a list with more parts": lambda parts: {"model": [*parts, {}, None], "epoch": 3},
    "a list with two parts": lambda parts: {"model": [parts[0], parts[1] | parts[2]]},
    "one flat dict": lambda parts: {"model": flat(parts)},
    "state_dict": lambda parts: {"epoch": 3, "state_dict": flat(parts), "optimizer": {"state": {0: torch.ones(3)}}},
    "model_state_dict": lambda parts: {"model_state_dict": flat(parts), "optimizer_state_dict": {"s": torch.ones(2)}},
    "bare": flat,
    "bare without prefixes": lambda parts: parts[0] | parts[1] | parts[2],
    "a dict of dicts": lambda parts: {"model": dict(zip(("img_enc", "txt_enc", "sim_enc"), parts, strict=True))},
    "dicts at the top": lambda parts: {"img_enc": parts[0], "txt_enc": parts[1], "sim": parts[2], "opt": Namespace()},
    "data parallel outside": lambda parts: {"model": flat(parts, wrapper="module.")},
    "data parallel inside": lambda parts: {"model": flat(parts, ("img.module", "txt.module", "module.sim"))},
    "compiled": lambda parts: flat(parts, wrapper="_orig_mod."),
    "our own names, bare": lambda parts: CAAN_STATE(parts),
    "a GRU called cap_rnn": lambda parts: {"model": [parts[0], renamed(parts[1], {"rnn.": "cap_rnn."}), parts[2]]},
    "a GRU called gru": lambda parts: {"model": flat([parts[0], renamed(parts[1], {"rnn.": "bi_gru."}), parts[2]])},
    "an embedding called word_embed": lambda parts: {
        "model": [parts[0], renamed(parts[1], {"embed.": "word_embed."}), parts[2]]
    },
    "w_v and w_u of a linear layer": lambda parts: {
        "model": [*parts[:2], parts[2] | {"w_v": parts[2]["w_v"][None], "w_u": parts[2]["w_u"][:, None]}]
    },
    "w_v and w_u as linear layers": lambda parts: {
        "model": [
            *parts[:2],
            without(parts[2], "w_v", "w_u")
            | {"w_v.weight": parts[2]["w_v"][None]}
            | {"w_u.weight": parts[2]["w_u"][None], "w_u.bias": torch.ones(1), "w_v.bias": torch.ones(1)},
        ]
    },
    "BatchNorm's counter": lambda parts: {
        "model": [parts[0] | {"bn.num_batches_tracked": torch.tensor(5)}, *parts[1:]]
    },
    "parameters as arrays": lambda parts: {"model": [{k: v.numpy() for k, v in part.items()} for part in parts]},
    "a torch.nn.Parameter each": lambda parts: {"model": [{k: nn.Parameter(v) for k, v in p.items()} for p in parts]},
    "a default dict": lambda parts: {"model": [defaultdict(list, part) for part in parts], "logs": defaultdict(int)},
}


def without(part, *names):
    return {key: value for key, value in part.items() if key not in names}


def CAAN_STATE(parts):  # noqa: N802
    model = CAAN(CONFIG)
    model.load_state_dict(
        {f"image_encoder.{key}": value for key, value in parts[0].items()}
        | {f"text_encoder.{renamed_text(key)}": value for key, value in parts[1].items()}
        | {f"scorer.{key}": value for key, value in parts[2].items()}
    )
    return model.state_dict()


def renamed_text(key):
    return key.replace("embed.", "embedding.").replace("rnn.", "gru.")


@pytest.mark.parametrize("form", FORMS)
def test_a_form(loads, parts, form):
    loads(FORMS[form](parts))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_parameters_of_other_widths(load, parts, state, dtype):
    content = {"model": [{key: value.to(dtype) for key, value in part.items()} for part in parts]}
    loaded = load(content).model.state_dict()
    assert all(torch.equal(loaded[name], state[name].to(dtype).float()) for name in state)


def test_a_whole_module(loads, parts):
    """torch.save(model) keeps the class's name; only its parameters are read."""
    model = CAAN(CONFIG)
    model.load_state_dict(CAAN_STATE(parts))
    loads({"model": model})
    loads(model)


@pytest.mark.parametrize("how", ["old", "new"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_norm_is_folded(load, parts, how):
    layer = nn.Linear(6, 5)
    layer.load_state_dict({key.removeprefix("fc."): value for key, value in parts[0].items()})
    norm = nn.utils.weight_norm if how == "old" else nn.utils.parametrizations.weight_norm
    layer = norm(layer, dim=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.7)  # g and v of their own
    loaded = load({"model": [layer.state_dict(prefix="fc."), *parts[1:]]}).model
    features = torch.randn(2, 6)
    torch.testing.assert_close(loaded.image_encoder.fc(features), layer(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [None, 1])
def test_a_weight_norm_over_other_axes_is_folded(load, parts, dim):
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5), dim=dim)
    loaded = load({"model": [layer.state_dict(prefix="fc."), *parts[1:]]}).model
    torch.testing.assert_close(loaded.image_encoder.fc.weight, layer.weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_weight_norm_that_does_not_fit(refusal, parts):
    image = {"fc.weight_g": torch.ones(4, 1), "fc.weight_v": torch.ones(5, 6), "fc.bias": torch.ones(5)}
    assert "weight norm of 0.fc.weight has g (4, 1) and v (5, 6)" in refusal({"model": [image, *parts[1:]]})


def test_a_linear_layer_s_bias_under_a_softmax_changes_nothing(loads, parts):
    scorer = {f"Q{i}": parts[2][f"Q{i}"] for i in range(1, 7)} | {"K": parts[2]["K"]}
    scorer |= {"v.weight": parts[2]["w_v"][None], "v.bias": torch.ones(1), "u.weight": parts[2]["w_u"][None]}
    loaded = loads({"model": [*parts[:2], scorer]}, key_map={"scorer.w_v": "2.v.weight", "scorer.w_u": "2.u.weight"})
    assert [setting.value for setting in loaded.settings if setting.name == "ignored"] == ["2.v.bias"]


RULES = {
    "every prefix": {"image_encoder.*": "a.*", "text_encoder.*": "b.*", "scorer.*": "c.*"},
    "modules": {
        "image_encoder.fc.*": "a.fc.*",
        "text_encoder.gru.*": "b.rnn.*",
        "text_encoder.*": "b.*",
        "scorer.*": "c.*",
    },
    "a wrapper in the rule": {"image_encoder.*": "module.a.*", "text_encoder.*": "b.*", "scorer.*": "c.*"},
    "one name and the rest": {"image_encoder.fc.weight": "a.fc.weight", "*": "b.*", "scorer.*": "c.*"}
    | {"image_encoder.fc.bias": "a.fc.bias"},
}


@pytest.mark.parametrize("rules", RULES)
def test_prefix_rules_choose_among_models(loads, parts, rules):
    """A file with two of everything, as one with a momentum encoder."""
    other = {key: value + 1 for key, value in flat(parts, ("x", "y", "z")).items()}
    loads({"model": flat(parts, ("a", "b", "c")) | other}, key_map=RULES[rules] | {"ignore": ["x.*", "y.*", "z.*"]})


def test_the_message_about_several_candidates_holds_the_rule_that_works(loads, refusal, parts):
    content = {"model": flat(parts) | {"txt_enc.proj.fc.weight": torch.ones(2, 2)}}
    message = refusal(content)
    assert "could be img_enc.fc.weight or txt_enc.proj.fc.weight" in message
    rule = json.loads(message[message.index("{") :])
    assert rule == {"image_encoder.fc.*": "img_enc.fc.*"}
    loads(content, key_map=rule | {"ignore": ["txt_enc.proj.*"]})


def test_the_message_about_too_many_parameters_holds_the_ignore_that_works(loads, refusal, parts):
    bn = {f"bn.{name}": torch.ones(5) for name in ("weight", "bias", "running_mean")}
    content = {
        "model": [
            parts[0] | bn | {"bn.num_batches_tracked": torch.tensor(5)},
            parts[1],
            parts[2] | {"Q9": torch.ones(1)},
        ]
    }
    message = refusal(content)
    rule = json.loads(message[message.index("{") :])
    assert rule == {"ignore": ["0.bn.*", "2.Q9"]}
    loaded = loads(content, key_map=rule)
    (ignored,) = [setting for setting in loaded.settings if setting.name == "ignored"]
    assert "0.bn.running_mean" in ignored.value and ignored.source == "option"


def test_an_ignored_pattern_that_matches_nothing(refusal, parts):
    assert '"ignore": "bn*" matches' in refusal({"model": parts}, key_map={"ignore": ["bn*"]})


@pytest.mark.parametrize("ignored", ["bn", [1], {"a": 1}, None])
def test_a_bad_ignore(refusal, parts, ignored):
    assert 'expected a list, as ["0.bn.*"]' in refusal({"model": parts}, key_map={"ignore": ignored})


@pytest.mark.parametrize(
    "rule", [{"encoder.*": "a.*"}, {"scorer.*": "caan."}, {"scorer.*": {"key": "a.*"}}, {"scorer.*": 5}]
)
def test_a_bad_prefix_rule(refusal, parts, rule):
    assert "our names are" in refusal({"model": parts}, key_map=rule)


def gru(kind=nn.GRU, **options):
    return kind(4, 5, batch_first=True, **options).state_dict(prefix="rnn.")


def embedding(parts):
    return {"embed.weight": parts[1]["embed.weight"]}


LACKING = {
    "one direction": (lambda p: [p[0], embedding(p) | gru(), p[2]], "one-directional (no weight_ih_l0_reverse)"),
    "an LSTM": (lambda p: [p[0], embedding(p) | gru(nn.LSTM, bidirectional=True), p[2]], "is an LSTM"),
    "a plain RNN": (lambda p: [p[0], embedding(p) | gru(nn.RNN, bidirectional=True), p[2]], "is a plain RNN"),
    "two layers": (lambda p: [p[0], embedding(p) | gru(bidirectional=True, num_layers=2), p[2]], "has 2 layers"),
    "a transformer": (lambda p: [p[0], {"bert.layer.0.weight": torch.ones(3, 3)}, p[2]], "no recurrent text encoder"),
    "no scorer": (lambda p: p[:2], "no scorer (K, Q1 to Q6, w_v, w_u)"),
    "another scorer": (
        lambda p: [*p[:2], {f"sim.{i}.weight": torch.ones(7, 9) for i in range(12)}],
        "no scorer (K, Q1 to Q6, w_v, w_u), only 2.sim.0.weight",
    ),
    "a second embedding": (
        lambda p: [p[0], p[1] | {"glove.weight": torch.ones(24, 300)}, p[2]],
        "second embedding, 1.glove.weight (24, 300), beside 1.embed.weight (24, 4)",
    ),
    "two embeddings": (
        lambda p: [p[0], renamed(p[1], {"embed.": "a.embed."}) | {"b.embed.weight": torch.ones(24, 4)}, p[2]],
        "several embeddings, 1.a.embed.weight, 1.b.embed.weight",
    ),
}


@pytest.mark.parametrize("name", LACKING)
def test_another_kind_of_model(refusal, parts, name):
    make, says = LACKING[name]
    message = refusal({"model": make(parts)})
    assert says in message and "no key map can help" in message and "--key-map" not in message


class EasyDict(dict):
    """As the package of that name: items are attributes too."""

    def __init__(self, **items):
        super().__init__(items)
        self.__dict__.update(items)


class Options:
    """As a class of training options."""

    def __init__(self, **items):
        self.__dict__.update(items)


class Boxed:
    """As OmegaConf keeps options: each in a node, which knows its parent."""

    def __init__(self, **items):
        self._content = {key: Node(value, self) for key, value in items.items()}


class Node:
    def __init__(self, value, parent):
        self._val, self._parent = value, parent


class Nested(dict):
    """As a configuration in sections."""

    def __init__(self, **items):
        super().__init__(model=dict(items), data={"name": "f30k"})


OPTIONS = {
    "Namespace": lambda **o: Namespace(**o),
    "dict": dict,
    "EasyDict": EasyDict,
    "defaultdict": lambda **o: defaultdict(None, o),
    "default of a class": lambda **o: defaultdict(Options, o),
    "OrderedDict": OrderedDict,
    "SimpleNamespace": lambda **o: SimpleNamespace(**o),
    "a class": lambda **o: Options(**o),
    "boxes": lambda **o: Boxed(**o),
    "sections": lambda **o: Nested(**o),
    "NumPy scalars": lambda **o: Namespace(**{k: np.array(v)[()] for k, v in o.items()}),
    "NumPy arrays": lambda **o: {k: np.array(v) for k, v in o.items()},
    "tensors": lambda **o: {k: torch.tensor(v) for k, v in o.items()},
    "strings": lambda **o: {k: str(v) for k, v in o.items()},
    "0 and 1": lambda **o: {k: int(v) for k, v in o.items()},
    "JSON": lambda **o: json.dumps(o),
    "a Namespace's repr": lambda **o: repr(Namespace(**o)),
    "beside paths and types": lambda **o: Namespace(
        **o, path=Path("/data/f30k"), pure=PurePosixPath("a"), size=torch.Size([3]), dtype=torch.float32,
        device=torch.device("cpu"), numpy_dtype=np.dtype("float32"), kind=np.float32, queue=deque([1]), some={1, 2},
        frozen=frozenset([1]), number=3j, words=np.array(["a"]), empty=np.zeros(0), began=datetime(2020, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("form", OPTIONS)
def test_options_in_any_form(load, parts, form, images):
    options = OPTIONS[form](no_imgnorm=not images, no_txtnorm=images, attention_scale=4.0)
    config = load({"model": parts, "opt": options}).model.config
    assert (config.normalize_images, config.normalize_texts, config.attention_scale) == (images, not images, 4.0)


@pytest.mark.parametrize("key", ["args", "config", "hparams"])
def test_options_under_another_key(load, parts, key):
    assert load({"state_dict": flat(parts), key: {"no_txtnorm": True}}).model.config.normalize_texts is False


@pytest.mark.parametrize(
    ("opt", "says"),
    [
        ({"no_imgnorm": "perhaps"}, "opt.no_imgnorm is 'perhaps', expected true or false"),
        ({"no_txtnorm": [1]}, r"opt.no_txtnorm is [1], expected true or false"),
        ({"attention_scale": True}, "opt.attention_scale is True, expected a number"),
        ({"vocab_size": "many"}, "opt.vocab_size is 'many', expected a number"),
        ([1, 2], "opt is [1, 2], expected options by name"),
        ("no options", "opt is 'no options', expected options by name"),
    ],
)
def test_options_that_can_t_be_read(refusal, parts, opt, says):
    assert says in refusal({"model": parts, "opt": opt})


def test_every_setting_names_its_origin(load, parts):
    opt = Namespace(no_txtnorm=True, lambda_softmax=9.0, lambda_lse=6.0, vocab_size=24)
    loaded = load({"model": parts, "opt": opt, "best_rsum": np.float64(432.1)})
    origins = {setting.name: (setting.source, setting.value, setting.note) for setting in loaded.settings}
    assert origins["λ"][:2] == ("default", "1")
    assert origins["λ"][2].startswith("the file names none; its lambda_softmax is 9;")
    assert "lambda_lse" not in origins["λ"][2]
    assert origins["image norm"] == ("default", "on", "the file has no no_imgnorm")
    assert origins["text norm"] == ("file", "off", "opt.no_txtnorm is true")
    assert origins["vocabulary"] == ("option", "24 words", "vocab.json; as many as the embedding's rows")
    assert origins["tokenizer"] == ("file", "whitespace", "the vocabulary's")
    assert loaded.metrics == {"best_rsum": 432.1}
    chosen = load({"model": parts}, attention_scale=2.5, tokenizer="whitespace")
    assert {s.name: (s.source, s.value) for s in chosen.settings}.items() >= {
        "λ": ("option", "2.5"),
        "tokenizer": ("option", "whitespace"),
    }.items()


def test_metrics_of_another_form_are_left_out(load, parts):
    assert load({"model": parts, "metrics": {"r1": torch.ones(2)}, "best_rsum": 3}).metrics == {"best_rsum": 3.0}
    assert load({"model": parts, "metrics": {"rsum": 5.0}, "best_rsum": float("nan")}).metrics == {"rsum": 5.0}


def with_rows(parts, rows):
    return [parts[0], parts[1] | {"embed.weight": torch.ones(rows, 4)}, parts[2]]


@pytest.mark.parametrize(("rows", "declared"), [(23, None), (25, None), (24, 23), (24, 25), (25, 24), (23, 24)])
def test_a_vocabulary_of_another_size(load, refusal, parts, rows, declared):
    content = {"model": with_rows(parts, rows), "opt": {"vocab_size": declared} if declared else {}}
    message = refusal(content)
    assert f"24 words, the embedding {rows} rows" in message and "--allow-vocab-mismatch" in message
    assert (f"opt.vocab_size is {declared}" in message) == bool(declared)
    loaded = load(content, allow_vocab_mismatch=True)
    assert len(loaded.vocabulary) == min(24, rows)
    (setting,) = [setting for setting in loaded.settings if setting.name == "vocabulary"]
    assert "--allow-vocab-mismatch" in setting.note


def test_a_vocabulary_with_a_gap(refusal, parts, vocabulary, tmp_path, load):
    """Words that are missing shift nothing, but they become unknown."""
    words = {word: number for word, number in vocabulary.words.items() if word != "w3"}
    load({"model": parts})  # writes the vocabulary
    (tmp_path / "gap.json").write_text(json.dumps(words))
    with pytest.raises(CheckpointError, match=r"23 words with ids up to 23, the embedding 24 rows"):
        load_checkpoint(tmp_path / "a.pth.tar", ScanOptions(tmp_path / "gap.json"))


Named = namedtuple("Named", "no_imgnorm")


def test_options_whose_names_are_in_their_class(refusal, parts):
    """They would be read as none, and both norms as on."""
    assert "Named), which are never executed" in refusal({"model": parts, "opt": Named(True)})


@pytest.mark.parametrize("where", ["model", "opt", "more"])
def test_parts_that_contain_each_other_many_times(load, parts, where):
    """Quick: every part is read once."""
    part = {"last": 1}
    for _ in range(20):
        part = {f"key{number}": part for number in range(50)}
    content = {"model": [*parts, part if where == "model" else {}], "opt": part if where == "opt" else {}, "more": part}
    load(content)


def test_a_bomb_is_not_printed(refusal, parts):
    bomb = [1]
    for _ in range(60):
        bomb = [bomb, bomb]
    assert len(refusal({"model": parts, "opt": {"no_imgnorm": bomb}})) < 1000
    assert len(refusal({"model": parts, "opt": bomb})) < 1000


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_another_pickle_protocol_is_named(refusal, parts):
    assert "another pickle protocol" in refusal({"model": parts}, protocol=4)

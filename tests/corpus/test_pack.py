"""Packed tokens: the trainer gets from them what it gets from the texts; what is cut, foreign or missing is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from herd.data.pack import SHARD, pack, read, vocabulary
from herd.errors import ConfigError, FormatError
from herd.text.documents import read_documents
from herd.text.train_tokenizer import train_tokenizer
from herd.train.packing import Packer, collate
from herd.train.recipe import Source
from herd.train.samples import read_source
from herd.weights.sidecars import read_tokenizer
from tests.models import byte_tokenizer

UDHR = Path(__file__).parents[1] / "data" / "udhr"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    rows = [
        {"text": line}
        for name in ("en", "th", "de")
        for line in (UDHR / f"{name}.txt").read_text("utf-8").split("\n")
        if line
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def tokenizer(place):
    return train_tokenizer((text for text, _ in read_documents(place / "texts.jsonl")), 1000)


@pytest.mark.parametrize("shard", [700, SHARD])
def test_batches_are_those_of_the_texts(place, tokenizer, tmp_path, monkeypatch, shard):
    monkeypatch.setattr("herd.data.pack.AT_ONCE", 1500)  # characters
    index = pack((text for text, _ in read_documents(place / "texts.jsonl")), tokenizer, tmp_path / "t", shard=shard)
    assert (len(index.shards) > 5) == (shard == 700)
    assert index.bytes == sum(len(text.encode()) for text, _ in read_documents(place / "texts.jsonl"))
    one = read_source(Source(path="", kind="text"), place / "texts.jsonl", tokenizer, None, 64)
    two = read_source(Source(path="", kind="tokens"), tmp_path / "t", tokenizer, None, 64)
    assert index.tokens == len(one.ids) == len(two.ids)
    packers = Packer([one], 3), Packer([two], 3)
    for _ in range(20):
        a, b = (collate(p.sources, p.rows(64, 4), 64) for p in packers)
        assert (a.tokens == b.tokens).all()
        assert (a.targets == b.targets).all()
        assert (a.weights == b.weights).all()
        assert a.documents.lengths == b.documents.lengths


def test_the_tokenizer_beside_the_tokens_is_theirs(place, tokenizer, smollm, tmp_path):
    texts = [text for text, _ in read_documents(place / "texts.jsonl")]
    for name, one in (("new", tokenizer), ("gguf", smollm.tokenizer)):
        pack(texts, one, tmp_path / name)
        beside = read_tokenizer(tmp_path / name)
        assert vocabulary(beside) == vocabulary(one)
        _, ids, offsets = read(tmp_path / name, beside)
        framed = ids[int(offsets[5]) : int(offsets[6])].tolist()
        declared = one.declared
        assert framed == [*filter(lambda i: i is not None, [declared.first, *one.encode(texts[5]), declared.eos])]


def test_many_ids_take_four_bytes(tmp_path, meta_tokenizer):
    pack(["Grüße 🦙"], meta_tokenizer, tmp_path / "t")
    _, ids, _ = read(tmp_path / "t", meta_tokenizer)
    assert ids[0 : len(ids)].dtype == np.uint32
    assert ids[0:1][0] == 128_000


def test_what_is_wrong_is_told(place, tokenizer, tmp_path):
    out = tmp_path / "t"
    pack(["one text", "another"], tokenizer, out)
    with pytest.raises(ConfigError, match="exists already"):
        pack(["a"], tokenizer, out)
    with pytest.raises(ConfigError, match="no text"):
        pack([], tokenizer, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="another tokenizer"):
        read(out, byte_tokenizer())
    places = (out / "00000.offsets").read_bytes()
    (out / "00000.offsets").write_bytes(places[:8] + places[-8:] + places[8:16])
    with pytest.raises(FormatError, match="damaged"):
        read(out, tokenizer)
    (out / "00000.offsets").write_bytes(places)
    (out / "00000.tokens").write_bytes((out / "00000.tokens").read_bytes()[:-2])
    with pytest.raises(FormatError, match="was cut"):
        read(out, tokenizer)
    (out / "00000.tokens").unlink()
    with pytest.raises(FormatError, match=r"00000\.tokens.*missing"):
        read(out, tokenizer)
    (out / "pack.json").write_text('{"version": 9}')
    with pytest.raises(FormatError, match=r"pack\.json"):
        read(out, tokenizer)


def test_corpus_to_model_by_two_commands(tmp_path):
    """The shipped recipes as they are, but for fewer steps of a smaller model."""
    (tmp_path / "recipes").mkdir()
    root = Path(__file__).parents[2]
    for name in ("docs-corpus", "docs-pretrain"):
        recipe = (root / "recipes" / f"{name}.toml").read_text()
        (tmp_path / "recipes" / f"{name}.toml").write_text(
            recipe.replace('"/usr/', '"/not-here/usr/').replace("layers = 6", "layers = 1")
        )
    (tmp_path / "docs").symlink_to(root / "docs")
    (tmp_path / "tests").symlink_to(root / "tests")

    def herd(*words, code=0):
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "herd", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert "held-out tokens" in herd("data", "recipes/docs-corpus.toml")
    texts = [line for path in (tmp_path / "runs/docs-corpus/texts").glob("*") for line in path.read_text().splitlines()]
    assert len(texts) > 30
    assert any("Universal Declaration" in line for line in texts)
    herd("data", "report", "runs/docs-corpus")
    assert "Packed tokens" in (tmp_path / "runs/docs-corpus/report.html").read_text()
    few = ["--set", "schedule.steps=2", "--set", "batch.tokens=512"]
    said = herd("train", "recipes/docs-pretrain.toml", *few)
    assert "step 2  held-out: loss" in said
    herd("data", "pack", "runs/docs-corpus/texts", "--tokenizer", "runs/docs-pretrain/model", "--out", "again")
    for name in ("pack.json", "00000.tokens"):  # everything, since nothing is held out
        assert (tmp_path / "again" / name).stat().st_size >= (
            tmp_path / "runs/docs-corpus/tokens" / name
        ).stat().st_size
    assert "--tokenizer is missing" in herd("data", "pack", "docs", code=2)

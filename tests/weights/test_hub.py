"""Downloads from a real server that cuts, lies and refuses: whole files, or one clear line and no broken file."""

import hashlib
import random
import socket

import httpx
import pytest

from herd.errors import ConfigError, DownloadError
from herd.family import shape
from herd.weights.convert import convert
from herd.weights.download import fetch
from herd.weights.hub import pull, pull_hf, pull_meta
from herd.weights.local import find, local_models
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint
from tests.weights.server import Site, serve

DATA = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture
def site():
    made = Site()
    made.files["/model.bin"] = DATA
    with serve(made) as address:
        made.address = address
        yield made


def get(site, path, **more):
    with httpx.Client(timeout=5) as client:
        return fetch(client, site.address + "/model.bin", path, pause=0.01, **more)


def test_a_whole_file_and_then_none_again(site, tmp_path):
    seen = []
    get(site, tmp_path / "m", checksum=MD5, progress=lambda *a: seen.append(a))
    assert (tmp_path / "m").read_bytes() == DATA
    assert seen[-1] == ("m", len(DATA), len(DATA))
    requests = len(site.log)
    get(site, tmp_path / "m", checksum=MD5)
    assert len(site.log) == requests
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("cut", [0, 1, 65_535, 65_536, 299_999])
def test_resume_after_a_cut_at_any_byte(cut, site, tmp_path):
    site.cut = [cut, 7]
    get(site, tmp_path / "m", checksum=MD5)
    assert (tmp_path / "m").read_bytes() == DATA
    if cut:
        assert ("/model.bin", f"bytes={cut}-") in site.log


def test_resume_in_a_later_run(site, tmp_path):
    site.cut = [1000] * 2
    with pytest.raises(DownloadError, match="2,000 bytes are kept"):
        get(site, tmp_path / "m", attempts=2)
    assert not (tmp_path / "m").exists()
    get(site, tmp_path / "m", checksum=MD5)
    assert (tmp_path / "m").read_bytes() == DATA
    assert site.log[-1][1] == "bytes=2000-"


def test_a_file_that_changed_meanwhile_is_not_mixed(site, tmp_path):
    site.cut = [1000]
    with pytest.raises(DownloadError):
        get(site, tmp_path / "m", attempts=1)
    other = random.Random(1).randbytes(500)
    site.files["/model.bin"] = other
    get(site, tmp_path / "m", checksum=hashlib.sha256(other).hexdigest())
    assert (tmp_path / "m").read_bytes() == other


@pytest.mark.parametrize("lie", ["ignores ranges", "wrong range", "too short"])
def test_lies_about_ranges_and_lengths_are_seen_through(lie, site, tmp_path):
    site.cut, site.lie = [5000], lie
    get(site, tmp_path / "m", checksum=MD5)
    assert (tmp_path / "m").read_bytes() == DATA


@pytest.mark.parametrize("lie, word", [("corrupt", "checksum"), ("huge", "disk is full")])
def test_lies_that_cannot_be_mended_leave_no_broken_file(lie, word, site, tmp_path):
    site.lie = lie
    with pytest.raises(DownloadError, match=word):
        get(site, tmp_path / "m", checksum=MD5, attempts=2)
    assert not (tmp_path / "m").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "status, word", [(403, "expired"), (404, "no such file"), (401, "login"), (410, "410"), (503, "503")]
)
def test_refusals_are_one_line(status, word, site, tmp_path):
    site.status["/model.bin"] = status
    with pytest.raises(DownloadError, match=word):
        get(site, tmp_path / "m", attempts=2)
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with httpx.Client() as client, pytest.raises(DownloadError, match="check the network"):
        fetch(client, address + "/x", tmp_path / "m", attempts=2, pause=0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def meta_site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meta") / "m"
    convert(random_checkpoint(shape("tiny")), folder, "meta")
    made = Site()
    lines = []
    for file in folder.iterdir():
        data = file.read_bytes()
        made.files[f"/Llama-3.1-8B/{file.name}"] = data
        lines.append(f"{hashlib.md5(data).hexdigest()}  {file.name}\n")
    made.files["/Llama-3.1-8B/checklist.chk"] = "".join(lines).encode()
    with serve(made) as address:
        made.link = address + "/*?Policy=abc&Signature=x*y"
        yield made


def test_metas_signed_link(meta_site, tmp_path):
    meta_site.cut = [10**9, 5_000]
    folder = pull_meta(meta_site.link, "llama-3.1-8b", tmp_path, pause=0.01)
    assert open_checkpoint(folder).config == shape("tiny")
    assert find("llama-3.1-8b", tmp_path) == folder
    assert local_models(tmp_path) == [folder]


def test_metas_link_expired_damaged_or_wrong(meta_site, tmp_path):
    meta_site.files["/Llama-3.1-8B/params.json"] += b" "
    with pytest.raises(DownloadError, match=r"params.json: checksum"):
        pull_meta(meta_site.link, "llama-3.1-8b", tmp_path, pause=0.01)
    meta_site.status["/Llama-3.1-8B/checklist.chk"] = 403
    with pytest.raises(DownloadError, match="expired"):
        pull_meta(meta_site.link, "llama-3.1-8b", tmp_path / "new", pause=0.01)
    assert not (tmp_path / "new" / "llama-3.1-8b").exists()
    meta_site.status.clear()
    meta_site.files["/Llama-3.1-8B/checklist.chk"] = b"0" * 32 + b"  ../../etc/passwd\n"
    with pytest.raises(DownloadError, match="not a checksum and a file name"):
        pull_meta(meta_site.link, "llama-3.1-8b", tmp_path / "evil", pause=0.01)
    for link, model, word in ((meta_site.link, "llama-9", "llama-3.1-8b"), ("http://x/", "llama-3.1-8b", "e-mail")):
        with pytest.raises(ConfigError, match=word):
            pull_meta(link, model, tmp_path)


def test_hugging_face(tmp_path):
    folder = tmp_path / "src"
    convert(random_checkpoint(shape("tiny")), folder, "hf")
    site = Site()
    site.files = {f"/{file.name}": file.read_bytes() for file in folder.iterdir()}
    site.files["/pytorch_model.bin"] = b"not wanted"
    with serve(site) as address:
        pulled = pull_hf("hf:org/tiny", tmp_path / "home", endpoint=address)
        assert open_checkpoint(pulled).config == shape("tiny")
        assert not (pulled / "pytorch_model.bin").exists()
        assert find("hf:org/tiny", tmp_path / "home") == pulled
        site.status["org/gated"] = 403
        with pytest.raises(DownloadError, match="gated: accept its licence"):
            pull_hf("hf:org/gated", tmp_path / "home", endpoint=address)
        site.status["org/none"] = 404
        with pytest.raises(DownloadError, match="no such repository"):
            pull_hf("hf:org/none", tmp_path / "home", endpoint=address)
    with pytest.raises(ConfigError, match="ORG/NAME"):
        pull_hf("hf:justaname", tmp_path / "home")
    assert [p.name for p in local_models(tmp_path / "home")] == ["org--tiny"]


def test_unknown_names(tmp_path):
    with pytest.raises(ConfigError, match="smollm2-135m"):
        pull("gpt-2", tmp_path)
    with pytest.raises(ConfigError, match="--model"):
        pull("meta:https://x*", tmp_path)

"""Downloads from a real server that cuts, lies and refuses: whole files, or one clear line and no broken file."""

import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys

import httpx
import pytest

from herd.errors import ConfigError, DownloadError, FormatError, HerdError
from herd.family import shape
from herd.weights.choose import gguf_models
from herd.weights.convert import convert
from herd.weights.download import fetch
from herd.weights.hub import pull, pull_meta
from herd.weights.huggingface import pull_hf
from herd.weights.local import find, local_models
from herd.weights.open import open_checkpoint
from herd.weights.quantize import write_quantized
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
    for name in ("hf:justaname", "hf:org/x/../../etc/passwd.gguf", "hf:org/x/a.gguf:Q4_0"):
        with pytest.raises(ConfigError, match="ORG/NAME"):
            pull_hf(name, tmp_path / "home")
    assert [p.name for p in local_models(tmp_path / "home")] == ["org--tiny"]


def test_safetensors_that_were_cut_off_say_so_and_go_on(tmp_path):
    folder = tmp_path / "src"
    convert(random_checkpoint(shape("tiny")), folder, "hf")
    site = Site()
    site.files = {f"/{file.name}": file.read_bytes() for file in folder.iterdir()}
    site.status["/model.safetensors"] = 404
    with serve(site) as address:
        with pytest.raises(DownloadError, match="run it again"):
            pull_hf("hf:org/tiny", tmp_path / "home", endpoint=address)
        with pytest.raises(FormatError, match="cut off, run it again"):
            open_checkpoint(tmp_path / "home" / "org--tiny")
        site.status.clear()
        assert open_checkpoint(pull_hf("hf:org/tiny", tmp_path / "home", endpoint=address)).config == shape("tiny")


@pytest.fixture(scope="module")
def quants(tmp_path_factory):
    """A repository as people publish them: several quantizations, one split, what belongs to other programs, no config."""
    folder = tmp_path_factory.mktemp("quants")
    source = random_checkpoint(shape("tiny"))
    write_quantized(source, folder / "tiny-Q8_0.gguf", "Q8_0")
    write_quantized(source, folder / "tiny.q4_k_m.gguf", "Q4_0")
    convert(source, folder / "tiny-BF16.gguf", "gguf", "BF16", split=100_000)
    site = Site()
    site.files = {f"/{file.name}": file.read_bytes() for file in folder.iterdir()}
    split = [name for name in site.files if "BF16" in name]
    site.files |= {f"/BF16{name}": site.files.pop(name) for name in split}
    site.files |= {f"/{name}": b"not a model" for name in ("mmproj-tiny-f16.gguf", "imatrix.gguf", "README.md")}
    return site


def test_of_several_quantizations_one_is_fetched_and_said(quants, tmp_path):
    said = []
    with serve(quants) as address:
        path = pull_hf("hf:org/x-GGUF", tmp_path, endpoint=address, say=said.append)
    assert path == tmp_path / "org--x-GGUF" / "tiny.q4_k_m.gguf"
    assert [file.name for file in tmp_path.rglob("*.gguf")] == ["tiny.q4_k_m.gguf"]
    (line,) = said
    for word in ("fetching Q4_K_M (0.1 MB)", "Q8_0 (0.2 MB)", "BF16 (0.3 MB)", "hf:org/x-GGUF:Q8_0"):
        assert word in line
    assert "mmproj" not in line
    assert find("hf:org/x-GGUF", tmp_path) == find("hf:org/x-GGUF:q4_k_m", tmp_path) == path
    assert find("hf:org/x-GGUF:Q8_0", tmp_path) is None
    assert open_checkpoint(path).config == open_checkpoint(path.parent).config == shape("tiny")


def test_a_quantization_or_a_file_of_choice(quants, tmp_path):
    with serve(quants) as address:
        split = pull_hf("hf:org/x-GGUF:bf16", tmp_path, endpoint=address)
        assert [p.name for p in sorted(split.parent.iterdir())] == [
            f"tiny-BF16-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)
        ]
        one = pull_hf("hf:org/x-GGUF/tiny-Q8_0.gguf", tmp_path, endpoint=address)
        assert find("hf:org/x-GGUF/tiny-Q8_0.gguf", tmp_path) == find("hf:org/x-GGUF:Q8_0", tmp_path) == one
        assert find("hf:org/x-GGUF", tmp_path) == one  # of those that are here
        assert open_checkpoint(find("hf:org/x-GGUF:BF16", tmp_path)).config == shape("tiny")
        for name, kind, word in (
            ("hf:org/x-GGUF:Q2_K", ConfigError, r"no Q2_K; there is Q4_K_M \(0.1 MB\), Q8_0"),
            ("hf:org/x-GGUF/mmproj-tiny-f16.gguf", ConfigError, "no model of its own"),
            ("hf:org/x-GGUF/none.gguf", DownloadError, "has no whole none.gguf"),
        ):
            with pytest.raises(kind, match=word):
                pull_hf(name, tmp_path, endpoint=address)
    assert len(list(tmp_path.rglob("*.gguf"))) == 5  # a refusal removes nothing


def test_a_fetch_that_fails_keeps_its_parts_and_goes_on(quants, tmp_path):
    quants.status["/tiny-Q8_0.gguf"] = 403
    with serve(quants) as address:
        pull_hf("hf:org/x-GGUF", tmp_path, endpoint=address)
        with pytest.raises(DownloadError):
            pull_hf("hf:org/x-GGUF:Q8_0", tmp_path, endpoint=address)
        assert find("hf:org/x-GGUF", tmp_path) is not None
        assert find("hf:org/x-GGUF:Q8_0", tmp_path) is None
        quants.status.clear()
        third = next(name for name in quants.files if "00003" in name)
        quants.status[third] = 404
        with pytest.raises(DownloadError, match="run it again"):
            pull_hf("hf:org/x-GGUF:BF16", tmp_path, endpoint=address)
        assert find("hf:org/x-GGUF:BF16", tmp_path) is None
        quants.status.clear()
        quants.log.clear()
        pull_hf("hf:org/x-GGUF:BF16", tmp_path, endpoint=address)
        assert open_checkpoint(find("hf:org/x-GGUF:BF16", tmp_path)).config == shape("tiny")


@pytest.mark.parametrize(
    "files, word",
    [
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter"),
        (["config.json", "pytorch_model.bin"], ".bin only"),
        (["README.md"], "holds no weights"),
        (["x-Q4_0-00001-of-00002.gguf"], "holds no weights"),
        (["a-Q4_0.gguf", "b-Q4_0.gguf"], "several models; name one file: a-Q4_0.gguf, b-Q4_0.gguf"),
    ],
)
def test_repositories_without_one_model(files, word, tmp_path):
    site = Site()
    site.files = {f"/{name}": b"{}" for name in files}
    with serve(site) as address, pytest.raises(HerdError, match=re.escape(word)):
        pull_hf("hf:org/x", tmp_path, endpoint=address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "file, quant",
    [
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"), ("qwen2.5-1.5b-instruct-q4_0.gguf", "Q4_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"), ("model-fp16.gguf", "F16"), ("Q8_0/model.gguf", "Q8_0"),
        ("Llama-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"), ("x.IQ3_XXS.gguf", "IQ3_XXS"), ("x-Q4_0_4_4.gguf", "Q4_0_4_4"), ("llama.gguf", ""),
    ],
)  # fmt: skip
def test_names_of_quantizations(file, quant):
    assert [model.quant for model in gguf_models({file: 1})] == [quant]


def test_the_commands_open_what_was_pulled_by_the_same_name(quants, tmp_path):
    with serve(quants) as address:
        environment = {**os.environ, "HERD_HOME": str(tmp_path), "HF_ENDPOINT": address}
        for command, *arguments in (("pull",), ("inspect", "--json")):
            done = subprocess.run(
                [sys.executable, "-m", "herd", command, "hf:org/x-GGUF", *arguments],
                env=environment, capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            if command == "pull":
                assert "fetching Q4_K_M" in done.stderr
                assert done.stdout.strip().endswith("tiny.q4_k_m.gguf")
    assert json.loads(done.stdout)["kind"] == "gguf"


def test_unknown_names(tmp_path):
    with pytest.raises(ConfigError, match="smollm2-135m"):
        pull("gpt-2", tmp_path)
    with pytest.raises(ConfigError, match="--model"):
        pull("meta:https://x*", tmp_path)

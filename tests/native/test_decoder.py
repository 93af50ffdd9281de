"""The C++ decoder against the torch reference: every format, odd shapes, every instruction set, every batch."""

import dataclasses
import functools
from functools import partial

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from herd import native
from herd.engine.backend import Row, Sampling, StepPlan
from herd.engine.backends.native import NativeBackend
from herd.engine.request import SamplingParams
from herd.engine.sampling import choose
from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.model.attention import attend
from herd.model.load import from_checkpoint
from herd.quant.formats import FORMATS
from herd.rotary import RopeScaling
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from tests.models import byte_tokenizer, random_checkpoint

EVERY_TOP = SamplingParams(temperature=0, logprobs=20)
BLOCKWISE = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]


def small(**change) -> ModelConfig:
    base = ModelConfig(
        layers=2, dim=256, ffn_dim=512, heads=4, kv_heads=2, head_dim=64, vocab=300, context=4096, rope_theta=10_000.0
    )
    return dataclasses.replace(base, **change)


def in_format(checkpoint: Checkpoint, fmt: str) -> Checkpoint:
    """The same model with its matrices in `fmt`; k-formats hold random blocks with small scales."""
    rng = np.random.default_rng(5)
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        if len(tensor.shape) == 1:
            tensors[name] = tensor
            continue
        values = tensor.float32()
        scale = None
        if fmt == "F8_E4M3":
            top = np.abs(values).max(1, keepdims=True) / 448
            raw = torch.from_numpy(values / top).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
            scale = partial(np.asarray, top, np.float32)
        elif fmt in ("Q4_K", "Q5_K", "Q6_K"):  # the gguf package cannot make these
            block = FORMATS[fmt]
            raw = rng.integers(0, 256, (*values.shape[:1], values.shape[1] // 256, block.bytes), dtype=np.uint8)
            at = [208] if fmt == "Q6_K" else [0, 2]
            for i, place in enumerate(at):
                magnitude = np.float16([0.0003, 0.002][i] if fmt != "Q6_K" else 0.00005)
                raw[:, :, place : place + 2] = np.array([magnitude]).view(np.uint8)
            raw = raw.reshape(values.shape[0], -1)
        else:
            raw = gguf.quantize(values, gguf.GGMLQuantizationType[fmt]).view(np.uint8)
        data = np.ascontiguousarray(raw).reshape(values.shape[0], -1)
        tensors[name] = StoredTensor(fmt, tensor.shape, lambda a, b, d=data: d[a:b], scale)
    return dataclasses.replace(checkpoint, tensors=tensors)


def log_probabilities(backend, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of each next token, [len - 1], in one step."""
    blocks = list(range(-(-len(tokens) // backend.block_size)))[::-1]
    result = backend.step(StepPlan([Row(tokens, 0, blocks, None, tokens[1:])]))[0]
    return np.array([score.logprob for score in result.scores])


TOKENS = [(i * 37 + 11) % 300 for i in range(150)]


@torch.inference_mode()
def reference(checkpoint: Checkpoint, tokens: list[int]) -> np.ndarray:
    """The same from the torch model in float32, keys and values rounded to float16 as the decoder's cache holds them."""
    model = from_checkpoint(checkpoint.config, checkpoint.tensors, torch.float32)
    for block in model.blocks:
        block.attention.kernel = lambda q, k, v, mask: attend(q, k.half().float(), v.half().float(), mask)
    scores = torch.log_softmax(model(torch.tensor([tokens]))[0].double(), -1)
    return scores[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].numpy()


PAIRS = "avx512bf16"  # multiplies activations rounded to BF16
EXACT = next(isa for isa in native.instruction_sets() if isa != PAIRS)


@pytest.mark.parametrize("fmt", ["F32", "BF16", "F16", "F8_E4M3"])
def test_float_formats_equal_the_reference(fmt):
    checkpoint = random_checkpoint(small())
    if fmt != "F32":
        checkpoint = in_format(checkpoint, fmt)
    ours = log_probabilities(NativeBackend(checkpoint, threads=2, isa=EXACT), TOKENS)
    # a key or value that falls between two halves may round to either: that is most of what is left
    assert np.abs(ours - reference(checkpoint, TOKENS)).max() < 2e-4


@pytest.mark.skipif(PAIRS not in native.instruction_sets(), reason="this processor has no BF16 dot products")
@pytest.mark.parametrize("fmt", ["BF16", "F16", "F8_E4M3"])
def test_pairs_of_bf16_differ_by_less_than_a_third_of_what_8_bit_activations_do(fmt):
    checkpoint = in_format(random_checkpoint(small()), fmt)
    ours = log_probabilities(NativeBackend(checkpoint, threads=2, isa=PAIRS), TOKENS)
    difference = np.abs(ours - reference(checkpoint, TOKENS))
    assert 0 < difference.mean() < 0.01
    assert difference.max() < 0.06


@pytest.mark.parametrize("fmt", BLOCKWISE)
def test_block_formats_differ_by_no_more_than_8_bit_activations_do(fmt):
    checkpoint = in_format(random_checkpoint(small()), fmt)
    ours = log_probabilities(NativeBackend(checkpoint, threads=2), TOKENS)
    theirs = reference(checkpoint, TOKENS)
    assert np.abs(ours - theirs).mean() < 0.03
    assert np.abs(ours - theirs).max() < 0.2


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_activations_too_small_for_their_inverse_keep_their_order(isa):
    checkpoint = in_format(random_checkpoint(small()), "Q8_0")
    chosen = []
    for times in (1, 1e-33):
        norm = StoredTensor.of(checkpoint.tensors["norm.weight"].float32() * np.float32(times))
        scaled = dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, "norm.weight": norm})
        row = Row(TOKENS, 0, list(range(10)), Sampling(EVERY_TOP, 0, 0))
        result = NativeBackend(scaled, threads=1, isa=isa).step(StepPlan([row]))[0]
        assert result.finite
        chosen.append(result.token)
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("fmt", ["Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q6_K", "F16"])
def test_instruction_sets_agree(fmt):
    checkpoint = in_format(random_checkpoint(small()), fmt)
    found = {
        isa: log_probabilities(NativeBackend(checkpoint, threads=2, isa=isa), TOKENS)
        for isa in native.instruction_sets()
    }
    assert "portable" in found
    # integer sums are exact everywhere, so sets differ by the rounding of float sums and what that moves in 8 bits
    for values in found.values():
        assert np.abs(values - found["portable"]).max() < 0.1
        assert np.abs(values - found["portable"]).mean() < 0.02


@pytest.mark.parametrize("fmt", [*BLOCKWISE, "F16", "BF16", "F32"])
def test_a_file_that_is_packed_on_the_way_gives_the_same_bits(fmt, tmp_path):
    checkpoint = in_format(random_checkpoint(small(vocab=520)), fmt)
    expected = log_probabilities(NativeBackend(checkpoint, threads=2), TOKENS)
    convert(checkpoint, tmp_path / "model.gguf", "gguf")
    later = NativeBackend(open_checkpoint(tmp_path / "model.gguf"), threads=2)
    later._decoder.packed_a_step = 150_000  # of some 800,000: steps meet raw, half packed and packed matrices
    for _ in range(10):
        np.testing.assert_array_equal(log_probabilities(later, TOKENS), expected)
    at_once = NativeBackend(open_checkpoint(tmp_path / "model.gguf"), threads=2)
    at_once.settle()
    np.testing.assert_array_equal(log_probabilities(at_once, TOKENS), expected)
    at_once.update({name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith("layers.0")})
    np.testing.assert_array_equal(log_probabilities(at_once, TOKENS), expected)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([32, 48, 64, 80, 128]), st.integers(1, 3), st.integers(1, 5), st.sampled_from([33, 250, 515]),
    st.sampled_from([40, 96, 100]), st.integers(1, 3), st.booleans(), st.integers(0, 1000),
)  # fmt: skip
def test_odd_shapes(head_dim, kv_heads, group, vocab, ffn, threads, tied, seed):
    config = ModelConfig(
        layers=2, dim=72, ffn_dim=ffn, heads=kv_heads * group, kv_heads=kv_heads, head_dim=head_dim, vocab=vocab,
        context=4096, rope_theta=10_000.0, rope_scaling=RopeScaling() if tied else None, tied=tied,
    )  # fmt: skip
    checkpoint = random_checkpoint(config, seed=seed, tokenizer=False)
    tokens = [(i * 31 + seed) % vocab for i in range(20 + seed % 150)]
    ours = log_probabilities(NativeBackend(checkpoint, threads=threads), tokens)
    theirs = reference(checkpoint, tokens)
    # as above, a key or value between two halves: up to 5.6e-4 in some hundred shapes, portable code included
    assert np.abs(ours - theirs).max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_results_do_not_depend_on_batch_blocks_chunks_or_threads(data):
    """Bit for bit: whatever is computed beside a sequence, in which blocks, in which chunks, on how many threads."""
    prompts = data.draw(st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=200), min_size=1, max_size=5))
    order = data.draw(st.permutations(range(100)))
    kinds = data.draw(
        st.sampled_from([("Q4_1", "f16"), ("Q4_1", "int8"), ("Q4_1", "int4"), ("F16", "f16"), ("F16", "f32")])
    )
    alone_backend, backend = _pair(data.draw(st.sampled_from([1, 2, 3])), *kinds)
    expected = []
    for prompt in prompts:
        blocks = list(range(-(-len(prompt) // 16)))
        expected.append(alone_backend.step(StepPlan([Row(prompt, 0, blocks, Sampling(EVERY_TOP, 0, 0))]))[0].logprob)
    tables, free = [], list(order)
    for prompt in prompts:
        need = -(-len(prompt) // 16)
        tables.append([free.pop() for _ in range(need)])
    done = [0] * len(prompts)
    last = [None] * len(prompts)
    while any(d < len(p) for d, p in zip(done, prompts, strict=True)):
        rows, who = [], []
        for i, prompt in enumerate(prompts):
            left = len(prompt) - done[i]
            if left and data.draw(st.booleans() if any(r for r in rows) else st.just(True)):
                count = data.draw(st.integers(1, left))
                stop = done[i] + count
                sampling = Sampling(EVERY_TOP, 0, 0) if stop == len(prompt) else None
                rows.append(Row(prompt[done[i] : stop], done[i], tables[i][: -(-stop // 16)], sampling))
                who.append((i, stop))
        for (i, stop), result in zip(who, backend.step(StepPlan(rows)), strict=True):
            done[i], last[i] = stop, result.logprob
    assert last == expected


@functools.cache
def _pair(threads: int, fmt: str, kv_cache: str) -> tuple[NativeBackend, NativeBackend]:
    checkpoint = in_format(random_checkpoint(small()), fmt)
    alone, together = (NativeBackend(checkpoint, threads=n, cache_tokens=1600, kv_cache=kv_cache) for n in (1, threads))
    return alone, together


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_smaller_caches_cost_little(isa):
    checkpoint = random_checkpoint(small())
    exact, *others = (
        log_probabilities(NativeBackend(checkpoint, threads=2, kv_cache=kv, isa=isa), TOKENS)
        for kv in ("f32", "f16", "int8", "int4")
    )
    half, eight, four = (np.abs(exact - other).mean() for other in others)
    assert 0 < half < 0.001
    assert half < eight < 0.01
    assert eight < four < 0.3
    with pytest.raises(ConfigError, match="f32, f16, int8, int4"):
        NativeBackend(checkpoint, kv_cache="q3")


def test_a_cache_of_four_bits_needs_whole_bytes():
    with pytest.raises(ConfigError, match="head_dim that 32 divides"):
        NativeBackend(random_checkpoint(dataclasses.replace(small(), head_dim=48)), kv_cache="int4")


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        top_p=st.sampled_from([1.0, 0.9, 0.4]),
        top_k=st.sampled_from([0, 1, 7, 500]),
        min_p=st.sampled_from([0.0, 0.1]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        presence_penalty=st.sampled_from([0.0, 0.7]),
        frequency_penalty=st.sampled_from([0.0, 0.4]),
        logit_bias=st.sampled_from([{}, {5: 3.0, 7: -50.0}]),
    ),
    st.integers(0, 2**63),
    st.integers(0, 500),
    st.booleans(),
)
def test_sampling_equals_the_reference_in_numpy(params, seed, position, masked):
    backend, checkpoint = _sampler()
    history = [3, 5, 5, 9, 11, 5]
    mask = np.random.default_rng(seed % 97).integers(0, 2**32, 10, dtype=np.uint32) if masked else None
    row = Row([9, 11, 5], 0, [0], Sampling(params, seed, position, history, 2, None if mask is None else lambda: mask))
    token = backend.step(StepPlan([row]))[0].token
    logits = _logits(backend)
    assert token == choose(logits, row.sampling)
    assert checkpoint.config.vocab == len(logits)


_SAMPLER: list = []


def _sampler():
    if not _SAMPLER:
        checkpoint = random_checkpoint(small(vocab=320))
        _SAMPLER.append((NativeBackend(checkpoint, threads=2), checkpoint))
    return _SAMPLER[0]


def _logits(backend) -> np.ndarray:
    """All log-probabilities after the tokens 9, 11, 5 (logits up to a constant, which changes no choice)."""
    if len(_SAMPLER) == 1:
        targets = np.zeros(320, np.float32)
        for token in range(320):
            row = Row([9, 11, 5], 0, [0], None, [11, 5, token])
            targets[token] = backend.step(StepPlan([row]))[0].scores[2].logprob
        _SAMPLER.append(targets)
    return _SAMPLER[1] + _constant(backend)


def _constant(backend) -> np.float32:
    """The repetition penalty looks at signs, so the constant is needed: found from the penalty itself."""
    if len(_SAMPLER) == 2:
        checkpoint = _SAMPLER[0][1]
        with torch.inference_mode():
            model = from_checkpoint(checkpoint.config, checkpoint.tensors, torch.float32)
            logits = model(torch.tensor([[9, 11, 5]]))[0, -1].numpy()
        _SAMPLER.append(np.float32(np.mean(logits - _SAMPLER[1])))
    return _SAMPLER[2]


def test_what_it_cannot_run_is_one_clear_error():
    with pytest.raises(ConfigError, match="multiple of 16"):
        NativeBackend(random_checkpoint(small(head_dim=24)))
    with pytest.raises(ConfigError, match="instruction set"):
        NativeBackend(random_checkpoint(small()), isa="sse9")
    with pytest.raises(ConfigError, match="GiB"):
        NativeBackend(random_checkpoint(small()), cache_tokens=10**12)
    with pytest.raises(ConfigError, match="threads"):
        NativeBackend(random_checkpoint(small()), threads=10_000)
    backend = NativeBackend(random_checkpoint(small()), cache_tokens=64)
    for row in (Row([999], 0, [0]), Row([1], 0, [99]), Row([1] * 40, 0, [0]), Row([], 0, [0]), Row([-1], 0, [0])):
        with pytest.raises(ValueError):
            backend.step(StepPlan([row]))
    assert backend.step(StepPlan([Row([1], 0, [0], Sampling(EVERY_TOP, 0, 0))]))[0].token is not None


def test_formats_without_a_kernel_are_held_as_bf16():
    checkpoint = random_checkpoint(small())
    data = np.random.default_rng(0).integers(0, 256, (300, 8 * 18), dtype=np.uint8)
    data.reshape(300, 8, 18)[:, :, :2] = np.array([np.float16(0.001)]).view(np.uint8)
    tensors = dict(checkpoint.tensors)
    tensors["output.weight"] = StoredTensor("IQ4_NL", (300, 256), lambda a, b: data[a:b])
    checkpoint = dataclasses.replace(checkpoint, tensors=tensors)
    assert native.converted_formats(checkpoint) == {"IQ4_NL"}
    ours = log_probabilities(NativeBackend(checkpoint, isa=EXACT), TOKENS)
    theirs = reference(checkpoint, TOKENS)
    assert np.abs(ours - theirs).max() < 0.05


def test_a_thousand_requests_leave_memory_flat():
    import resource

    from herd.engine.engine import Engine
    from herd.engine.request import Request

    checkpoint = random_checkpoint(small(vocab=512), tokenizer=True)
    with Engine(NativeBackend(checkpoint, threads=1, cache_tokens=2048), byte_tokenizer()) as engine:

        def some(count):
            params = SamplingParams(temperature=1, max_tokens=4, ignore_eos=True)
            list(engine.generate([Request(prompt=[i % 200 + 1] * (i % 60 + 1), params=params) for i in range(count)]))

        some(300)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        some(1000)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 20e6

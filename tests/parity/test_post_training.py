"""LoRA against PEFT, DPO and reward models against TRL: the same weights and batches in float32, losses and gradients within 1e-5."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from herd.model.load import from_checkpoint
from herd.train.lora import LoraLinear, adapter_of, add_adapters, fresh_adapter
from herd.train.objectives import DPO
from herd.train.open import make_trainer, open_recipe
from herd.train.packing import collate
from herd.train.recipe import Lora
from herd.weights.adapter import merged, read_adapter, write_adapter
from herd.weights.open import open_checkpoint
from tests.train.conftest import find, place  # noqa: F401
from tests.train.test_train import recipe_of

TOLERANCE = 1e-5


def close(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((mine - theirs).norm() <= TOLERANCE * theirs.norm())


def padded(sequences: list[torch.Tensor], value: int = 0) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


def documents(trainer, rows):
    """Each document of packed rows as (tokens, mask of targets), in the order of samples."""
    for piece in [piece for row in rows for piece in row]:
        one = collate(trainer.packer.sources, [[piece]], piece.stop - piece.start)
        at = 0
        for length in one.documents.lengths:
            span = slice(at, at + length)
            tokens = torch.cat([one.tokens[0, span], one.targets[0, span][-1:]])
            yield tokens, torch.cat([torch.zeros(1), one.weights[0, span]])
            at += length


def test_adapters_are_those_of_peft(place, find, tmp_path):  # noqa: F811
    from peft import PeftModel

    source = open_checkpoint(place / "model")
    model = from_checkpoint(source.config, source.tensors, torch.float32)
    add_adapters(model, Lora(rank=4, alpha=12.0))
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            module.lora_a, module.lora_b = (
                torch.nn.Parameter(torch.empty(p.shape)) for p in (module.lora_a, module.lora_b)
            )
            with torch.no_grad():
                fresh_adapter(f"{name}.lora_a", module.lora_a, 0)
            torch.nn.init.normal_(module.lora_b, 0, 0.2, generator=torch.Generator().manual_seed(1))
    adapter = adapter_of(model)
    write_adapter(tmp_path, adapter, source.config.head_dim, "model")
    theirs = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(place / "model", dtype=torch.float32), tmp_path, is_trainable=True
    )
    tokens = torch.arange(40)[None] * 5 % 250
    mine, other = model(tokens), theirs(tokens).logits
    assert (mine - other).abs().max() < TOLERANCE * other.abs().max()
    torch.autograd.backward(mine.square().mean())
    torch.autograd.backward(other.square().mean())
    grads = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    prefix = "base_model.model.model.layers.1.mlp.down_proj"
    assert close(model.blocks[1].feed_forward.w2.lora_a.grad, grads[f"{prefix}.lora_A.default.weight"])
    assert close(model.blocks[1].feed_forward.w2.lora_b.grad, grads[f"{prefix}.lora_B.default.weight"])
    assert all(p.grad is None for name, p in model.named_parameters() if "lora" not in name)
    # read back, and merged into the weights without torch
    again = read_adapter(tmp_path, source.config.head_dim)
    for name, (a, b) in adapter.pairs.items():
        assert np.array_equal(again.pairs[name][0], a)
        assert np.array_equal(again.pairs[name][1], b)
    whole = merged(source, again)
    found = from_checkpoint(whole.config, whole.tensors, torch.float32)(tokens)
    assert (found - mine).abs().max() < TOLERANCE * mine.abs().max()


@pytest.mark.slow  # importing TRL takes longer than everything else here
def test_dpo_is_trl_s(place, find, tmp_path):  # noqa: F811
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    trainer = make_trainer(open_recipe(recipe_of("pairs", objective="dpo"), place, find), find, None, lambda **_: None)
    assert isinstance(trainer.objective, DPO)
    trainer.objective = dataclasses.replace(trainer.objective, nll=0.0, beta=0.3)
    moved = {name: p + 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(7)) for name, p in trainer.model.named_parameters()}  # fmt: skip
    theirs, reference = (LlamaForCausalLM.from_pretrained(place / "model", dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        for name, p in trainer.model.named_parameters():
            p.copy_(moved[name])
    weights = {
        "output.weight": "lm_head.weight",
        "layers.0.feed_forward.w1.weight": "model.layers.0.mlp.gate_proj.weight",
    }
    move_all(theirs, trainer.model)
    rows = [trainer.packer.row(256) for _ in range(3)]
    trainer.model.train()
    loss, sums, _ = trainer.gradients(rows, 256)
    found = list(documents(trainer, rows))
    ordered = found[::2] + found[1::2]
    tokenizer = AutoTokenizer.from_pretrained(place / "model", eos_token="<|end_of_text|>")
    tokenizer.pad_token_id = 0
    config = DPOConfig(str(tmp_path), beta=0.3, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False)
    data = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    other = DPOTrainer(theirs, reference, args=config, train_dataset=data, processing_class=tokenizer)
    batch = {
        "input_ids": padded([tokens for tokens, _ in ordered]),
        "attention_mask": padded([torch.ones_like(tokens) for tokens, _ in ordered]),
        "completion_mask": padded([mask.long() for _, mask in ordered]),
    }
    theirs.train()
    wanted = other.compute_loss(other.model, batch)
    torch.autograd.backward(wanted)
    assert abs(loss - wanted.item()) < TOLERANCE
    mine, others = dict(trainer.model.named_parameters()), dict(theirs.named_parameters())
    for ours, name in weights.items():
        assert close(mine[ours].grad, others[name].grad), ours
    assert 0 <= sums["accuracy"] <= 1


def move_all(theirs, model) -> None:
    """transformers' model gets our model's weights."""
    from herd.weights.names import from_canonical, halves_from_interleaved, is_rotary

    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            value = p[halves_from_interleaved(len(p), model.config.head_dim)] if is_rotary(name) else p
            parameters[from_canonical(name, "hf")].copy_(value)


@pytest.mark.slow
def test_reward_models_are_trl_s(place, find, tmp_path):  # noqa: F811
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    trainer = make_trainer(
        open_recipe(recipe_of("pairs", objective="reward"), place, find), find, None, lambda **_: None
    )
    rows = [trainer.packer.row(256) for _ in range(3)]
    loss, _, count = trainer.gradients(rows, 256)
    theirs = LlamaForSequenceClassification.from_pretrained(place / "model", dtype=torch.float32, num_labels=1)
    move_all(theirs, trainer.model)
    theirs.config.pad_token_id = 511  # no token of the data
    found = [tokens[:-1] for tokens, _ in documents(trainer, rows)]  # without the one that gives the last a position
    ordered = found[::2] + found[1::2]
    tokenizer = AutoTokenizer.from_pretrained(place / "model", eos_token="<|end_of_text|>")
    tokenizer.pad_token_id = 511
    config = RewardConfig(str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False)
    data = Dataset.from_list([{"chosen": "b", "rejected": "c"}])
    other = RewardTrainer(theirs, args=config, train_dataset=data, processing_class=tokenizer)
    batch = {
        "input_ids": padded(ordered, 511),
        "attention_mask": padded([torch.ones_like(tokens) for tokens in ordered]),
    }
    wanted = other.compute_loss(other.model, batch)
    torch.autograd.backward(wanted)
    assert count == len(found) // 2
    assert abs(loss - wanted.item()) < TOLERANCE
    assert close(trainer.model.score.weight.grad, theirs.score.weight.grad)


def test_distillation_is_the_divergence_of_plain_logits(place, find):  # noqa: F811
    from herd.train.objectives import divergence

    generator = torch.Generator().manual_seed(0)
    hidden, wanted = (torch.randn(50, 16, generator=generator).requires_grad_() for _ in range(2))
    weight, teaches = (torch.randn(300, 16, generator=generator).requires_grad_() for _ in range(2))
    found = divergence(hidden, weight, wanted.detach(), teaches.detach(), 2.0)
    torch.autograd.backward(found)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    student = torch.log_softmax(wide[0] @ wide[1].T / 2, -1)
    teacher = torch.log_softmax((wanted.double() @ teaches.double().T / 2).detach(), -1)
    truth = (teacher.exp() * (teacher - student)).sum() * 4
    torch.autograd.backward(truth)
    assert abs(found.item() - truth.item()) < TOLERANCE * truth.item()
    assert close(hidden.grad.double(), wide[0].grad)
    assert close(weight.grad.double(), wide[1].grad)


GRPO_KINDS = [("answers", "grpo", 0.1), ("tokens", "dapo", 0.0), ("length", "dr_grpo", 0.1)]


@pytest.mark.slow
@pytest.mark.parametrize(("divisor", "theirs_name", "kl"), GRPO_KINDS)
def test_grpo_is_trl_s(place, find, tmp_path, divisor, theirs_name, kl):  # noqa: F811
    """Loss and gradients of answers by our engine, after the policy has moved: clipped ratios and truncated weights are among them."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from tests.train.test_grpo import REWARD
    from tests.train.test_grpo import recipe_of as grpo_recipe

    (place / "prompts.jsonl").write_text('{"prompt": "the cat", "scale": 1}\n{"prompt": "on a mat", "scale": 1}\n')
    (place / "rewards.py").write_text(REWARD)
    recipe = grpo_recipe(divisor=divisor, kl=kl, updates=2, group=4, truncate=1.01)
    trainer = make_trainer(open_recipe(recipe, place, find), find, None, lambda **_: None)
    trainer.packer.rows(64, 0)
    rows = trainer.packer.rows(64, 0)  # the second update: old log-probabilities are known
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    theirs = LlamaForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    move_all(theirs, trainer.model)
    loss, sums, _ = trainer.gradients(rows, 64)
    answers = trainer.packer._now
    trainer.close()

    tokenizer = AutoTokenizer.from_pretrained(place / "model", eos_token="<|end_of_text|>")
    tokenizer.pad_token_id = 0
    config = GRPOConfig(
        str(tmp_path), beta=kl, loss_type=theirs_name, max_completion_length=recipe.grpo.max_tokens, num_generations=4,
        per_device_train_batch_size=4, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": "a"}])
    other = GRPOTrainer(theirs, lambda **_: [0.0], args=config, train_dataset=data, processing_class=tokenizer)
    other.use_vllm, other.vllm_importance_sampling_correction, other.current_gradient_accumulation_steps = True, True, 1
    prompts = [torch.tensor(trainer.packer._task(answer).tokens) for answer in answers]
    replies = [torch.tensor(answer.tokens) for answer in answers]
    old = padded([torch.tensor(answer.old) for answer in answers])
    batch = {
        "prompt_ids": padded([p.flip(0) for p in prompts]).flip(1), "completion_ids": padded(replies),
        "prompt_mask": padded([torch.ones_like(p) for p in prompts]).flip(1),
        "completion_mask": padded([torch.ones_like(r) for r in replies]), "old_per_token_logps": old,
        "advantages": torch.tensor([answer.advantage for answer in answers]), "num_items_in_batch": torch.tensor(sum(map(len, replies))),
        "importance_sampling_ratio": (old - padded([torch.tensor(a.rollout) for a in answers])).exp().clamp(max=1.01),
    }  # fmt: skip
    if kl:
        batch["ref_per_token_logps"] = padded([torch.tensor(answer.reference) for answer in answers])
    theirs.train()
    wanted = other._compute_loss(other.model, batch)
    torch.autograd.backward(wanted)
    assert abs(loss - wanted.item()) < TOLERANCE
    assert sums["clipped"] > 0
    mine, others = dict(trainer.model.named_parameters()), dict(theirs.named_parameters())
    for ours, name in (("output.weight", "lm_head.weight"), ("layers.0.feed_forward.w1.weight", "model.layers.0.mlp.gate_proj.weight")):  # fmt: skip
        assert close(mine[ours].grad, others[name].grad), ours

"""From rows to batches: what is supervised, what is cut, and a loss that does not depend on how a batch is split."""

from __future__ import annotations

import copy
import dataclasses
import threading
import time

import pytest
import torch
import train_world
from omnivision_train import data, run_data, trainer
from omnivision_train.data import Collator, Conversations
from omnivision_train.encoding import as_pixels
from safetensors.torch import load_file
from train_world import conversation

from omnivision.constants import IGNORE_INDEX
from omnivision.data.image import open_image
from omnivision.data.resized import ResizedCache
from omnivision.data.rows import Row
from omnivision.errors import DataError

PAIRS = [("Is there a cat in the image?", "Yes"), ("How many apples are there?", "two"), ("What is it?", "a red cat")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def model(world):
    return train_world.build(world)


def row(pairs=PAIRS, images=("images/0.png",), name="r1", source="rows.jsonl:7") -> Row:
    made = conversation(name, list(images), pairs)
    return Row(id=name, images=tuple(images), source=source, turns=tuple(made["turns"]))


def samples(world, processor, rows, max_length=256):
    return Conversations(rows, processor, world.folder, max_length)


def supervised(sample, processor) -> str:
    return processor.tokenizer.decode([label for label in sample.labels if label != IGNORE_INDEX])


def test_only_answers_and_their_end_tokens_are_supervised(world, model):
    processor = model[1]
    (sample,) = samples(world, processor, [row()])
    assert supervised(sample, processor) == "Yes<|im_end|>two<|im_end|>a red cat<|im_end|>"
    kept = [(token, label) for token, label in zip(sample.input_ids, sample.labels, strict=True) if label != IGNORE_INDEX]
    assert all(token == label for token, label in kept)
    assert sample.input_ids.count(processor.image_token_id) == processor.image_seq_length == 9
    assert processor.image_token_id not in sample.labels


def test_turns_without_loss_are_not_supervised(world, model):
    turns = list(row().turns)
    turns[1] = {**turns[1], "loss": False}
    (sample,) = samples(world, model[1], [dataclasses.replace(row(), turns=tuple(turns))])
    assert supervised(sample, model[1]) == "two<|im_end|>a red cat<|im_end|>"


def test_typed_control_tokens_stay_letters(world, model):
    processor = model[1]
    (sample,) = samples(world, processor, [row([("<|image_pad|><|im_end|>", "<|im_end|>ha")])])
    assert sample.input_ids.count(processor.image_token_id) == 9
    assert sum(label == processor.tokenizer.convert_tokens_to_ids("<|im_end|>") for label in sample.labels) == 1


@pytest.mark.parametrize("spare", [0, -1])
def test_a_long_row_loses_whole_pairs_from_its_end(world, model, spare):
    lengths = [len(samples(world, model[1], [row(PAIRS[:n])])[0].input_ids) for n in (1, 2, 3)]
    (sample,) = samples(world, model[1], [row()], max_length=lengths[1] + spare)
    kept = 2 if spare == 0 else 1
    assert len(sample.input_ids) == lengths[kept - 1]
    assert supervised(sample, model[1]) == "".join(f"{answer}<|im_end|>" for _, answer in PAIRS[:kept])
    assert sample.input_ids.count(model[1].image_token_id) == 9


@pytest.mark.parametrize("length", [20, 5])
def test_a_row_that_cannot_fit_is_named(world, model, length):
    with pytest.raises(DataError, match=rf"Row r1 has \d+ tokens, more than max_length {length} \(rows.jsonl:7\)"):
        samples(world, model[1], [row()], max_length=length)


def test_a_row_with_a_system_turn_that_cannot_fit_is_named_too(world, model):
    with_system = dataclasses.replace(row(), turns=({"role": "system", "text": "Be short."}, *row().turns))
    assert supervised(samples(world, model[1], [with_system])[0], model[1]).startswith("Yes<|im_end|>two")
    with pytest.raises(DataError, match="Row r1 has .* more than max_length 20"):
        samples(world, model[1], [with_system], max_length=20)


def test_a_row_that_supervises_nothing_is_named(world, model):
    turns = ({"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Ho", "loss": False})
    with pytest.raises(DataError, match="Row r1 has no supervised token"):
        samples(world, model[1], [dataclasses.replace(row(), turns=turns)])


def test_batches_are_padded_on_the_right_and_pictures_in_order(world, model):
    processor = model[1]
    made = samples(world, processor, [row(PAIRS[:1]), row(PAIRS, ("images/3.png",)), row(PAIRS[:1], ())])
    batch = Collator(processor)([made[0], made[1], made[2]])
    longest, pad = batch["input_ids"].shape[1], processor.tokenizer.pad_token_id
    assert longest >= max(len(sample.input_ids) for sample in made) and "attention_mask" not in batch
    for ids, labels, sample in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), made, strict=True):
        padding = longest - len(sample.input_ids)
        assert ids == [*sample.input_ids, *[pad] * padding] and labels == [*sample.labels, *[IGNORE_INDEX] * padding]
    alone = [Collator(processor)([made[i]])["pixel_values"] for i in (0, 1)]
    assert torch.equal(batch["pixel_values"], torch.cat(alone))
    assert "pixel_values" not in Collator(processor)([made[2]])


@pytest.mark.parametrize("worker", [False, True])
def test_pictures_are_read_by_all_cores_but_in_a_loaders_worker(world, model, monkeypatch, worker):
    readers = set()
    monkeypatch.setattr(data, "open_image", lambda path: readers.add(threading.get_ident()) or time.sleep(0.02) or open_image(path))
    monkeypatch.setattr(data, "cores", lambda: 3)
    monkeypatch.setattr(data, "get_worker_info", lambda: object() if worker else None)
    made = samples(world, model[1], [row(images=(f"images/{number}.png",)) for number in range(6)])
    pixels = Collator(model[1])(made)["pixel_values"]
    assert readers == {threading.get_ident()} if worker else len(readers) == 3
    assert torch.equal(pixels, model[1].pixels([open_image(sample.images[0]) for sample in made]))


def test_padding_does_not_change_the_loss(world, model):
    made = samples(world, model[1], [row(PAIRS[:1]), row(PAIRS, ("images/3.png",))])
    sums, counts = [], []
    with torch.no_grad():
        for sample in made:
            count = sum(label != IGNORE_INDEX for label in sample.labels)
            counts.append(count)
            sums.append(float(model[0](**Collator(model[1])([sample])).loss) * count)
        together = float(model[0](**Collator(model[1])([made[0], made[1]])).loss)
    assert together == pytest.approx(sum(sums) / sum(counts), rel=1e-5)


def test_one_batch_of_four_is_four_of_one(world, tmp_path):
    # answers of different lengths: a mean of means would differ in the second digit
    runs = [train_world.train(train_world.settings(world, tmp_path / name, "sft", batch_size=size, accumulation=steps), "sft")
            for name, size, steps in (("whole", 4, 1), ("split", 1, 4))]
    whole, split = map(train_world.losses, runs)
    assert split == pytest.approx(whole, rel=1e-5) and len(set(whole)) == 3
    after = list(map(train_world.weights, runs))
    for name in after[0]:
        assert torch.allclose(after[0][name], after[1][name], atol=1e-3), name  # a fifth of a step: Adam makes steps of gradients that rounding alone left


def test_a_batch_knows_its_positions_and_trains_as_one_that_is_asked(world, model):
    made = samples(world, model[1], [row(images=("images/0.png",)), row(images=()), row(images=("images/1.png", "images/2.png"))])
    batch = Collator(model[1])(made)
    for key in ("row_ids", "num_tokens", "num_supervised"):
        batch.pop(key)
    ids, labels, length = *(batch[key].flatten().tolist() for key in ("input_ids", "labels")), batch["labels"].shape[1]
    assert batch["image_at"].tolist() == [at for at, token in enumerate(ids) if token == model[1].image_token_id]
    assert batch["supervised_at"].tolist() == [at - 1 for at, label in enumerate(labels) if at % length and label != IGNORE_INDEX]
    found = []
    for given in (batch, {key: value for key, value in batch.items() if key not in ("image_at", "supervised_at")}):
        model[0].zero_grad()
        loss = model[0](**given).loss
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in model[0].parameters() if p.grad is not None]))
    model[0].zero_grad()
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))
    with pytest.raises(ValueError, match="holds 26 image placeholders .* give 27 image tokens"):
        model[0](**{**batch, "image_at": batch["image_at"][:-1]})


def test_pictures_in_bytes_become_the_same_pixels_on_the_device(world, model, tmp_path):
    made = samples(world, model[1], [row(images=(f"images/{number}.png",)) for number in range(3)])
    plain = Collator(model[1])(made)
    kept = ResizedCache(tmp_path, model[1].image_processor.size["height"])
    for squashed in (None, kept, kept):  # the third from the disk
        batch = Collator(model[1], squashed=squashed, as_bytes=True)(made)
        assert batch["pixel_values"].dtype == torch.uint8 and batch["pixel_values"].nbytes * 4 == plain["pixel_values"].nbytes
        as_pixels(model[0], model[1], batch)
        assert torch.equal(batch["pixel_values"], plain["pixel_values"])
    as_pixels(model[0], model[1], plain)  # floats stay
    assert torch.equal(batch["pixel_values"], plain["pixel_values"])
    no_pictures = Collator(model[1], as_bytes=True)([samples(world, model[1], [row(images=())])[0]])
    as_pixels(model[0], model[1], no_pictures)
    assert "pixel_values" not in no_pictures


def test_a_processor_that_does_more_than_squash_sends_no_bytes(world, model, monkeypatch):
    monkeypatch.setattr(run_data, "device", lambda: "cuda")
    config = train_world.settings(world, world.folder, "sft")
    assert run_data.collator_arguments(config, model[1], None)["as_bytes"] is True
    processor = copy.deepcopy(model[1])
    processor.image_processor.do_center_crop = True
    assert not processor.squashes_only and run_data.collator_arguments(config, processor, None)["as_bytes"] is False
    with pytest.raises(ValueError, match="use pixels"):
        processor.squashed(open_image(world.folder / "images/0.png"))
    with pytest.raises(ValueError, match="RGBA"):
        model[1].squashed(open_image(world.folder / "images/0.png").convert("RGBA"))
    with pytest.raises(ValueError, match="uint8"):
        model[0].model.get_vision_features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_stage_learns_the_same_from_bytes(world, tmp_path, monkeypatch, stage):
    def trained(name):
        folder = train_world.train(train_world.settings(world, tmp_path / name, stage, max_steps=2), stage)
        return load_file(next(folder.rglob("model.safetensors")))

    floats = trained("floats")
    seen = []
    real = trainer.as_pixels
    monkeypatch.setattr(trainer, "as_pixels", lambda model, processor, batch: seen.append(getattr(batch.get("pixel_values"), "dtype", None)) or real(model, processor, batch))
    monkeypatch.setattr(run_data, "device", lambda: "cuda")
    monkeypatch.setattr(run_data, "GPU_STEP", run_data.CPU_STEP)  # padded alike, else sums round otherwise
    in_bytes = trained("bytes")
    assert torch.uint8 in seen and set(seen) <= {torch.uint8, None}  # None: a batch of texts alone
    assert all(torch.equal(floats[name], in_bytes[name]) for name in floats)

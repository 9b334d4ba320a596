"""Run folders: sealed checkpoints, hand-over notes, locks."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from omnivision.errors import ConfigError, DataError, ResumableError
from omnivision.runs import (MANIFEST, RunLock, environment, file_hash, newest_checkpoint, read_hand_over, read_json_lines, seal, sorted_checkpoints,
                             verifies, write_hand_over, write_json)


def checkpoint(folder, step, content="weights"):
    """A sealed step-N with a file and a folder."""
    partial = folder / f"checkpoint-{step}"
    (partial / "optimizer").mkdir(parents=True)
    (partial / "model.safetensors").write_text(content)
    (partial / "optimizer" / "rank_0.bin").write_bytes(b"\0" * 100)
    seal(partial, folder / f"step-{step}")
    return folder / f"step-{step}"


def test_a_sealed_checkpoint_proves_itself(tmp_path):
    sealed = checkpoint(tmp_path, 3)
    assert verifies(sealed) and not (tmp_path / "checkpoint-3").exists()
    manifest = json.loads((sealed / MANIFEST).read_text())
    assert manifest == {"model.safetensors": file_hash(sealed / "model.safetensors"),
                        "optimizer/rank_0.bin": file_hash(sealed / "optimizer" / "rank_0.bin")}


def flip(sealed):
    (sealed / "optimizer" / "rank_0.bin").write_bytes(b"\0" * 99 + b"\1")


DAMAGE = {
    "a flipped byte": flip,
    "a shorter file": lambda sealed: (sealed / "model.safetensors").write_text("weight"),
    "a missing file": lambda sealed: (sealed / "optimizer" / "rank_0.bin").unlink(),
    "a file too many": lambda sealed: (sealed / "optimizer" / "rank_1.bin").write_bytes(b""),
    "no manifest": lambda sealed: (sealed / MANIFEST).unlink(),
    "half a manifest": lambda sealed: (sealed / MANIFEST).write_text('{"model.'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_every_damage_is_seen(tmp_path, damage):
    sealed = checkpoint(tmp_path, 3)
    damage(sealed)
    assert not verifies(sealed)


def test_sealing_again_replaces(tmp_path):
    checkpoint(tmp_path, 3, "old")
    assert (checkpoint(tmp_path, 3, "new") / "model.safetensors").read_text() == "new"


def test_the_newest_that_verifies_is_taken(tmp_path):
    for step in (2, 9, 10):  # not in the order of their names
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-12").mkdir()  # was being written
    (tmp_path / "step-11").write_text("a file of somebody's")
    for copy in ("step-10-best", "step-9.bak", "step-x"):  # their owner's
        shutil.copytree(tmp_path / "step-10", tmp_path / copy)
    assert [path.name for path in sorted_checkpoints(tmp_path)] == ["step-10", "step-9", "step-2"]
    warnings = []
    assert newest_checkpoint(tmp_path, warnings.append) == tmp_path / "step-10" and not warnings
    flip(tmp_path / "step-10")
    assert newest_checkpoint(tmp_path, warnings.append) == tmp_path / "step-9"
    assert warnings == [f"{tmp_path / 'step-10'} is damaged or incomplete and is skipped"]
    flip(tmp_path / "step-9")
    flip(tmp_path / "step-2")
    with pytest.raises(DataError, match="No checkpoint of this run is whole: step-10, step-9, step-2"):  # to begin again is the owner's choice
        newest_checkpoint(tmp_path, warnings.append)
    assert newest_checkpoint(tmp_path / "none", warnings.append) is None


@pytest.mark.parametrize("kept_from", [MANIFEST, "model.safetensors"])
def test_a_disk_that_does_not_answer_is_no_damage(tmp_path, monkeypatch, kept_from):
    for step in (2, 4):
        checkpoint(tmp_path, step)
    read = Path.open

    def failing(self, *args, **kwargs):
        if self.name == kept_from and self.parent.name == "step-4":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return read(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        patch.setattr(Path, "read_text", lambda self, *args, **kwargs: self.open().read())
        with pytest.raises(ResumableError, match=f"cannot be read: Input/output error.*step-4/{kept_from}"):
            newest_checkpoint(tmp_path, print)
    assert newest_checkpoint(tmp_path, print) == tmp_path / "step-4"


@pytest.fixture()
def final(tmp_path):
    folder = tmp_path / "sft" / "final"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    (folder / "config.json").write_text("{}")
    write_hand_over(folder, "sft", "parent-hash")
    return folder


def test_an_unchanged_result_is_handed_over(final):
    assert read_hand_over(final, ("align", "sft"), "dpo")["parent"] == "parent-hash"


def test_another_stage_is_refused_with_both_names(final):
    with pytest.raises(ConfigError, match=r"comes from the stage `sft`, but `sft` starts from `align`"):
        read_hand_over(final, ("align",), "sft")


CHANGES = {
    "changed": lambda folder: (folder / "model.safetensors").write_text("weightz"),
    "gone": lambda folder: (folder / "model.safetensors").unlink(),
    "added": lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_result_that_changed_since_is_refused(final, change):
    change(final)
    with pytest.raises(ConfigError, match="changed after its stage ended: model.safetensors"):
        read_hand_over(final, ("sft",), "dpo")


def test_a_folder_without_a_finished_stage_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no finished stage to start `dpo` from.*Run one of the stages sft first"):
        read_hand_over(tmp_path, ("sft",), "dpo")


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"stage": "sft"}'])
def test_a_broken_note_is_an_error_and_no_traceback(final, note):
    (final / "omnivision.json").write_text(note)
    with pytest.raises(ConfigError, match="omnivision.json"):
        read_hand_over(final, ("sft",), "dpo")


def test_a_locked_folder_names_its_owner_and_is_free_afterwards(tmp_path):
    with RunLock(tmp_path / "run"):
        with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on .*{tmp_path / 'run'}.*another `out`"):
            with RunLock(tmp_path / "run"):
                pass
    with RunLock(tmp_path / "run"):
        pass
    with pytest.raises(RuntimeError), RunLock(tmp_path / "run"):
        raise RuntimeError
    with RunLock(tmp_path / "run"):  # a failed run gives it back
        pass


def test_json_is_written_whole(tmp_path):
    file = tmp_path / "latest"
    write_json(file, {"checkpoint": "step-1"})
    with pytest.raises(TypeError):
        write_json(file, {"checkpoint": object()})
    assert json.loads(file.read_text()) == {"checkpoint": "step-1"}


def test_the_environment_says_what_ran(monkeypatch):
    monkeypatch.setattr("omnivision.runs.PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/omnivision", "train", "sft"])
    found = environment()
    assert found["packages"]["torch"] and found["packages"]["no-such-package"] is None
    assert found["command"] == "omnivision train sft" and found["cores"] == os.cpu_count()


def test_json_lines_end_at_line_feeds_alone(tmp_path):
    rows = [{"text": "one\u2028line\u0085still"}, {"text": "图"}]
    (tmp_path / "a").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_json_lines(tmp_path / "a") == rows
    (tmp_path / "b").write_text('{"a": 1}\n{"a": 2}')
    assert read_json_lines(tmp_path / "b") == [{"a": 1}, {"a": 2}]
    (tmp_path / "c").write_text("")
    assert read_json_lines(tmp_path / "c") == []
    (tmp_path / "d").write_text('{"a": 1}\n\n{"a": 2}\n')
    with pytest.raises(ValueError):
        read_json_lines(tmp_path / "d")

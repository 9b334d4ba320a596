"""Packages that are imported and not run before they are used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnivision_train.put_off import put_off


def said(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()  # DeepSpeed speaks before


def test_stages_leave_datasets_until_it_is_used():
    stages = "import sys, omnivision_train.dpo, omnivision_train.supervised\n"
    assert said(stages + "import datasets\nbefore = 'pandas' in sys.modules\n"
                "print(before, len(datasets.Dataset.from_list([{'a': 1}])), 'pandas' in sys.modules, type(datasets).__name__)") \
        == ["False", "1", "True", "module"]
    assert said(stages + "from datasets import Dataset\nfrom transformers import Trainer\nprint(Dataset.__module__)") == ["datasets.arrow_dataset"]


def test_threads_that_ask_at_once_wait_for_one_run(tmp_path, monkeypatch):
    (tmp_path / "put_off_slow.py").write_text("import sys, time\nruns = [1]\nearly = hasattr(sys.modules[__name__], 'late')\ntime.sleep(0.3)\nlate = 2\nruns.append(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    put_off("put_off_slow")
    import put_off_slow

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: put_off_slow.late, range(4))) == [2] * 4
    assert put_off_slow.runs == [1, 2] and put_off_slow.early is False


def test_the_module_runs_once_at_the_first_name(tmp_path, monkeypatch):
    (tmp_path / "put_off_one.py").write_text("import sys\nruns = sys.modules.setdefault('put_off_runs', [])\nruns.append(1)\n", encoding="utf-8")
    (tmp_path / "put_off_broken.py").write_text("there = 1\nraise ValueError('broken')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    put_off("put_off_one")
    import put_off_one

    assert put_off_one.__spec__.name == "put_off_one" and "put_off_runs" not in sys.modules
    assert put_off_one.runs == [1] == put_off_one.runs
    put_off("put_off_one")  # it is loaded
    assert sys.modules["put_off_one"] is put_off_one and put_off_one.runs == [1]
    put_off("put_off_broken")
    import put_off_broken

    with pytest.raises(ValueError, match="broken"):
        put_off_broken.there
    with pytest.raises(ValueError, match="broken"):  # as Python imports it again
        importlib.import_module("put_off_broken")

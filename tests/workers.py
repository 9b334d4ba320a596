"""Stages in processes of their own, forked from one that has everything imported: cheap enough to kill a hundred of them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import train_world

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # else looking for a GPU while importing would forbid to fork
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["train_world", "workers", "deepspeed", "trl", "omnivision.model.build", "omnivision_train.supervised",
                                "omnivision_train.dpo", "omnivision_train.functions"])
WATCHDOG = 120  # seconds
WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "tests.flush", "tests.save")


@dataclass(frozen=True)
class Sabotage:
    """What goes wrong in a process, and when.

    Args:
        kind: "kill" (SIGKILL), "full" (the disk has no room for what is written), or "count" (nothing goes wrong).
        folder: only what is written below it counts. at: so many writes went well before. log: where each write is noted.
    """

    kind: str
    folder: Path
    at: int
    log: Path


def start(config, stage: str, ranks: int = 1, sabotage: Sabotage | None = None, bf16: bool = False) -> list[multiprocessing.Process]:
    """A stage in its own processes; the sabotage is done to the first. With bf16 DeepSpeed's own, as on a GPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = Path(config.out).parent / "workers.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    found = [CONTEXT.Process(target=_work, args=(config, stage, rank, ranks, port, log, sabotage if rank == 0 else None, bf16)) for rank in range(ranks)]
    for process in found:
        process.start()
    return found


def finish(processes: list[multiprocessing.Process]) -> list[int]:
    """Waits for the processes; returns their exit codes (a negative one is a signal)."""
    for process in processes:
        process.join(WATCHDOG)
        if process.is_alive():
            for other in processes:
                other.kill()
            raise AssertionError(f"a process hung for {WATCHDOG} s")
    return [process.exitcode for process in processes]


def run(config, stage: str, ranks: int = 1, sabotage: Sabotage | None = None, bf16: bool = False) -> Path:
    """A stage to its end; returns final/. What the processes printed stands in workers.log beside `out`."""
    codes = finish(start(config, stage, ranks, sabotage, bf16))
    assert codes == [0] * ranks, (codes, (Path(config.out).parent / "workers.log").read_text()[-3000:])
    return Path(config.out) / stage / "final"


def _work(config, stage, rank, ranks, port, log, sabotage, bf16) -> None:
    import torch
    from omnivision_train import precision

    from omnivision.errors import OmniError

    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests' processes talk over gloo
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if sabotage:
        _arm(sabotage)
    if bf16:
        precision.deepspeed_bf16 = lambda config: True
    try:
        train_world.recipe(stage)(config)
    except OmniError as error:
        print(error.paragraph(), flush=True)
        os._exit(error.exit_code)
    except SystemExit as stop:
        os._exit(stop.code)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _arm(sabotage: Sabotage) -> None:
    """Lets the sabotage happen at its write: Python tells of most, the others are made to tell."""
    import safetensors.torch

    flush, save = os.fsync, safetensors.torch.save_file

    def telling_flush(handle):
        sys.audit("tests.flush", os.readlink(f"/proc/self/fd/{handle}"))
        flush(handle)

    def telling_save(tensors, path, *args, **kwargs):
        sys.audit("tests.save", str(path))
        save(tensors, path, *args, **kwargs)

    os.fsync = telling_flush
    safetensors.torch.save_file = telling_save
    for name in ("omnivision_train.checkpoint", "transformers.modeling_utils"):
        import importlib

        module = importlib.import_module(name)
        known = "save_file" if hasattr(module, "save_file") else "safe_save_file"
        setattr(module, known, telling_save)
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        path = str(arguments[0]) if arguments else ""
        writes = event in WRITES or (event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wax")
        if not writes or not path.startswith(str(sabotage.folder)):
            return
        number, seen = seen, seen + 1
        if sabotage.kind == "count":
            with os.fdopen(os.open(sabotage.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
                file.write(f"{event} {os.path.relpath(path, sabotage.folder)}\n")
        elif sabotage.kind == "kill" and number == sabotage.at:
            os.kill(os.getpid(), signal.SIGKILL)
        elif sabotage.kind == "full" and number >= sabotage.at and event in ("open", "tests.save", "os.mkdir"):
            raise OSError(errno.ENOSPC, "No space left on device", path)

    sys.addaudithook(hook)

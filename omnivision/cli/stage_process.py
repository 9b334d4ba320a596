"""Stages in processes of their own, forked from one that has everything imported: each would take five seconds to import it."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

from omnivision.errors import ResumableError

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = ["omnivision_cli.stage_process", "deepspeed", "trl", "omnivision.model.build", "omnivision_train.supervised", "omnivision_train.dpo",
            "omnivision_train.functions"]
EACH = 0.1  # seconds between two looks at the log


def prepare() -> None:
    """Starts the process that imports, which takes a few seconds beside other work; what libraries print goes to stderr."""
    CONTEXT.set_forkserver_preload(IMPORTED)
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        forkserver.ensure_running()
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def run_logged(words: list[str], log: Path, stage: str, tick: Callable[[float], None]) -> None:
    """Runs `omnivision WORDS` with its output in a file; its "stage 10/300" lines move the bar.

    Raises:
        ResumableError: it failed; the message ends with the log's last lines.
    """
    log.write_text("")
    process = CONTEXT.Process(target=_work, args=(words, str(log)))
    process.start()
    try:
        with log.open() as said:
            while process.is_alive():
                process.join(EACH)
                for found in re.finditer(rf"^{stage} (\d+)/(\d+) ", said.read(), re.M):
                    tick(int(found[1]) / int(found[2]))
    except BaseException:
        process.terminate()
        process.join()
        raise
    if process.exitcode:
        tail = " ".join(log.read_text().strip().splitlines()[-3:])
        raise ResumableError(f"The stage `{stage}` ended with code {process.exitcode}: {tail}", str(log), "Fix the cause and start again.")


def _work(words: list[str], log: str) -> None:
    from omnivision_cli.main import main

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # of a launcher that started us: a stage would take them for its own
        os.environ.pop(name, None)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.exit(main(words))

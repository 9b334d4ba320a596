"""Starts a recipe under DeepSpeed's launcher, and knows when it already runs under one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)  # that end a process


def under_launcher() -> bool:
    """Whether a launcher (deepspeed, torchrun, accelerate) has started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank_and_ranks() -> tuple[int, int]:
    """The number of this process, from 0, and how many train together, as a launcher has told; (0, 1) alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def leave_processes() -> None:
    """All together, at the end: a process that goes while others still talk to it may end them with an error after everything is done."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """A port of this machine that nobody listens on, so that two runs do not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(argv: list[str], flags: list[str]) -> None:
    """Runs the same command once per process; what they print comes on stderr.

    Args:
        argv: words after `omnivision train`. flags: DeepSpeed launcher flags (--num_gpus 8, --hostfile FILE ...).

    Raises:
        OmniError: they have failed; with their exit code. ResumableError: one was killed.
    """
    import psutil

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment.setdefault("OMP_NUM_THREADS", "1")  # two processes of two threads on two cores would fight
    script = str(Path(__file__).with_name("main.py").resolve())
    command = [sys.executable, "-m", "deepspeed.launcher.runner", *flags, "--no_local_rank", script, *argv]
    # in a session of its own: a signal to our process group (timeout, systemd, Ctrl-C) comes to us alone, and we hand it on
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=sys.stderr.fileno())  # stdout is for the result
    try:
        code = process.wait()
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not end the waiting
        ranks = _ranks_of(process.pid, script)
        for rank in ranks:  # the launcher itself would give them no time to save
            with contextlib.suppress(psutil.Error):
                rank.send_signal(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        if not ranks:
            process.terminate()  # still starting, or on other machines
        process.wait()
        psutil.wait_procs(ranks)  # the launcher may have ended before them, of a signal to all
        raise
    psutil.wait_procs(_ranks_of(process.pid, script))
    _ended(code)


def _ended(code: int) -> None:
    """Tells how the launcher has ended.

    Raises:
        ResumableError: a process was killed. OmniError: it has failed, and has said why.
    """
    from omnivision.errors import OmniError, ResumableError

    killed = -code if code < 0 else 256 - code if 256 - code in SIGNALS else 0  # DeepSpeed's launcher ends with a rank's own code; 255 is ssh's
    if killed and killed not in (signal.SIGINT, signal.SIGTERM):
        raise ResumableError(f"A training process was killed by signal {killed}", "launcher",
                             "Signal 9 is what a system sends where memory runs out. The same command resumes from the last checkpoint.")
    if code:
        error = OmniError("The training processes have failed", "launcher", "What they said stands above.")
        error.exit_code = 128 + killed if killed else code
        raise error


def _ranks_of(launcher: int, script: str) -> list:
    """The processes of the launcher's session on this machine that run the script; their loaders' workers, which are copies of them, are none."""
    import psutil

    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended
            words = process.cmdline() if os.getsid(process.pid) == launcher else []
            if script in words and not any(word.startswith("deepspeed.launcher.") for word in words):
                found[process.pid] = process.ppid(), process
    return [process for parent, process in found.values() if parent not in found]

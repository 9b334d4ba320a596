"""Starts a recipe under DeepSpeed's launcher, and knows when it already runs under one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path


def under_launcher() -> bool:
    """Whether a launcher (deepspeed, torchrun, accelerate) has started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def free_port() -> int:
    """A port of this machine that nobody listens on, so that two runs do not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(argv: list[str], flags: list[str]) -> int:
    """Runs the same command once per process; returns the launcher's exit code.

    Args:
        argv: words after `omnivision train`. flags: DeepSpeed launcher flags (--num_gpus 8, --hostfile FILE ...).
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment.setdefault("OMP_NUM_THREADS", "1")  # two processes of two threads on two cores would fight
    script = str(Path(__file__).with_name("main.py").resolve())
    command = [sys.executable, "-m", "deepspeed.launcher.runner", *flags, "--no_local_rank", script, *argv]
    # in a session of its own: a signal to our process group (timeout, systemd, Ctrl-C) comes to us alone, and we hand it on
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not end the waiting
        ranks = _ranks_of(process.pid, script)
        for rank in ranks:  # the launcher itself would give them no time to save
            rank.send_signal(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
        if not ranks:
            process.terminate()  # still starting, or on other machines
        process.wait()
        raise


def _ranks_of(launcher: int, script: str) -> list:
    """The launcher's processes on this machine that run the script."""
    import psutil

    found = []
    for process in psutil.Process(launcher).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:  # it has ended
            continue
        if script in words and "deepspeed.launcher.launch" not in " ".join(words):
            found.append(process)
    return found

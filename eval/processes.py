"""Several processes that each open the model and answer their share of the batches; one a GPU where there are GPUs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from omnivision.errors import ConfigError, OmniError, ResumableError

from .models import Answers, Source
from .prompts import Prompt


def answers_of_processes(source: Source, batches: list[list[Prompt]], processes: int) -> Iterator[Answers]:
    """The answers of all batches, as they come from any process.

    Each process has a stretch of neighbouring batches, for these share pictures.

    Raises:
        ConfigError: more processes than GPUs, where there are any.
        ResumableError: a process ended without a word. Otherwise what a process raised.
    """
    import torch

    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ConfigError(f"There are {gpus} GPUs for {processes} processes", "--processes", f"Give at most {gpus}.")
    threads = max(1, (os.cpu_count() or 1) // processes)
    context, running = multiprocessing.get_context("spawn"), {}
    try:
        for rank, share in enumerate(_stretches(batches, processes)):
            reader, writer = context.Pipe(duplex=False)
            device = f"cuda:{rank}" if gpus else None
            process = context.Process(target=_work, args=(writer, source, device, share, threads), daemon=True)
            process.start()
            writer.close()
            running[reader] = process
        yield from _gather(running)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _stretches(batches: list[list[Prompt]], count: int) -> list[list[list[Prompt]]]:
    edges = [len(batches) * part // count for part in range(count + 1)]
    return [batches[start:end] for start, end in zip(edges, edges[1:], strict=False) if start < end]


def _gather(running: dict[Connection, multiprocessing.Process]) -> Iterator[Answers]:
    readers = set(running)
    while readers:
        for reader in wait(list(readers)):
            try:
                said = reader.recv()
            except (EOFError, OSError):  # OSError: killed while it sent
                said = ResumableError("A process ended without a word (out of memory, or killed)", "--processes", "Start again: what was answered is kept.")
            if isinstance(said, Exception):
                raise said
            if said is None:
                readers.discard(reader)
            else:
                yield said


def _work(writer: Connection, source: Source, device: str | None, share: list[list[Prompt]], threads: int) -> None:
    """What a process does: opens the model, sends each batch's answers, then None; or the error."""
    import dataclasses

    import torch

    torch.set_num_threads(threads)
    try:
        model = dataclasses.replace(source, device=device or source.device).open()
        for part in model.answers(share):
            writer.send(part)
        writer.send(None)
    except OmniError as error:
        writer.send(error)
    except OSError:
        return  # the parent has gone
    except Exception as error:  # noqa: BLE001 - a traceback does not travel, its text does
        writer.send(RuntimeError(f"{type(error).__name__}: {error}"))

"""A recorded judge: the ledger of an earlier judging, read without network and without touching it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from omnivision.endpoint import Outcome, Request
from omnivision.endpoint.accounts import Accounts
from omnivision.endpoint.lines import parse, split
from omnivision.errors import ConfigError, DataError

from .judge_key import Key


class RecordedJudge:
    """Replies as a judge once did; what it was not asked then is missing.

    Args:
        path: the ledger.
        prompt: hash of the prompt that is asked with.
        model: the judge's name as asked for; needed only where the ledger holds several.

    Raises:
        DataError: the file cannot be read, or is no judge's ledger.
        ConfigError: the ledger holds no judging with this prompt and model, or several.
    """

    absent = "not recorded"

    def __init__(self, path: Path, prompt: str, model: str | None = None) -> None:
        self._accounts, keys = _read(path)
        prompts = sorted({key.prompt for key in keys})
        if prompt not in prompts:
            raise ConfigError(f"The recorded judge was given other prompts: their hashes are {', '.join(prompts)}, not {prompt}", str(path),
                              "Name the prompt that was used then as --judge-prompt.")
        judges = {(key.model, key.max_tokens) for key in keys if key.prompt == prompt and model in (None, key.model)}
        if len(judges) != 1:
            known = ", ".join(sorted({f"{key.model} ({key.max_tokens} tokens)" for key in keys if key.prompt == prompt}))
            raise ConfigError(f"{len(judges)} recorded judges fit, not one; the ledger holds {known}", str(path),
                              "Name one as --judge-model, or keep a ledger for each.")
        self.model, self.max_tokens = judges.pop()
        self.name = f"{self.model}, recorded in {path.name}"

    def ask(self, questions: Iterable[tuple[str, list]], temperature: float) -> Iterator[Outcome]:
        """The final outcomes that are recorded."""
        for key, _ in questions:
            outcome = self._accounts.final(key)
            if outcome is not None:
                yield outcome

    def possibly_billed(self) -> int:
        """Requests of then of which nobody knows whether the endpoint did the work."""
        return len(self._accounts.doubtful())


def _read(path: Path) -> tuple[Accounts, set[Key]]:
    try:
        whole, _ = split(path.read_bytes())  # what follows the last line break is the half line of a killed run
    except OSError as error:
        raise DataError("The recorded judge cannot be read", f"--judge {path}",
                        f"{error.strerror}. Give the ledger of an earlier judging, or the address of an endpoint.") from error
    accounts, keys = Accounts(), set()
    for number, line in enumerate(whole, 1):
        try:
            record = parse(line)
            keys.add(Key.parse(record.key))
            (accounts.began if isinstance(record, Request) else accounts.ended)(record)
        except ValueError as error:
            raise DataError(f"A line is not of a judge's ledger: {error}", f"{path}:{number}", "Give the ledger of an earlier judging.") from error
    if not keys:
        raise DataError("The recorded judge's ledger is empty", str(path), "Give the ledger of an earlier judging.")
    return accounts, keys

"""`omnivision train chain --config FILE`: all stages after one another, each from the verified result of the one before.

    out: runs/968m
    shared: {image_root: data}          # keys for every stage
    stages:
    - {stage: align, config: align.yaml}    # beside the chain's file; further keys override the file's
    - {stage: sft, config: sft.yaml, lr: 1.0e-5}
    - {stage: pairs, data: world/dpo.jsonl}  # `omnivision data pairs` with the model so far
    - {stage: dpo, config: dpo.yaml}

Every configuration is read before anything runs. A finished stage is not run again: it has to be what this chain would
have made. Each stage is a process of its own, so that an interrupted chain goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from omnivision.config_files import dump_config, load_config, load_tree, read_yaml
from omnivision.data.room import make_folder
from omnivision.data.sources import source_hash
from omnivision.data.tables import HUB
from omnivision.errors import ConfigError
from omnivision.pairs.main import parser as pairs_parser
from omnivision.runs import HAND_OVER, file_hash, read_hand_over, read_json, write_json
from omnivision_train.config import BATCH, FOLLOWS, MAY_CHANGE, StageConfig
from omnivision_train.run_data import MANIFEST

PAIRS = "pairs"
OWN = {"out": "give out=", "start": "each stage starts from the one before"}  # keys of a stage that the chain sets
MAKES = ("preset", "vision", "language", "projector", "projector_gelu")  # the first stage's: the model that all of them train
NO_DIFFERENCE = ("--cache-gib", "--key-variable", "--max-cost", "--price-in", "--price-out")  # to what the pairs are


@dataclasses.dataclass(frozen=True)
class ChainConfig:
    """The chain's own keys."""

    out: str
    stages: list[dict]
    shared: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PairsConfig:
    """Keys of the entry `pairs`: flags of `omnivision data pairs`."""

    data: str
    image_root: str = "."
    feature_cache: str | None = None
    cache_gib: float | None = None
    most_edited: float | None = None
    limit: int | None = None
    teacher: str | None = None  # None: the oracle, which knows the embedded world alone
    teacher_model: str | None = None
    key_variable: str | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None


@dataclasses.dataclass(frozen=True)
class Link:
    """One stage of the chain.

    Args:
        command: runs it. config: None for pairs. result: final/, or the file of pairs. before: the stage it starts from.
    """

    stage: str
    command: list[str]
    config: StageConfig | None
    result: Path
    before: Link | None


def chain(path: str, overrides: list[str], flags: list[str]) -> Path:
    """Runs the stages that are not finished; returns the last one's result.

    Args:
        path: the chain's YAML. overrides: `key=value` of the chain, or `stage.key=value` of a stage. flags: the launcher's.

    Raises:
        ConfigError: a wrong configuration of any stage, an order that stages cannot have, a finished stage of other settings.
    """
    links = open_chain(path, overrides, flags)
    for link in links:
        if is_finished(link):
            print(f"chain: {link.stage} is finished ({link.result})", file=sys.stderr)
            continue
        print(f"chain: {link.stage}", file=sys.stderr, flush=True)
        if link.config is not None:
            make_folder(link.result.parent, "run")
            chain_file(Path(link.config.out), link.stage).write_text(dump_config(link.config))
        _run(link.command)
        if link.config is None:
            write_json(pairs_note(link), made_from(link))
    return links[-1].result


def open_chain(path: str, overrides: list[str], flags: list[str]) -> list[Link]:
    """The stages of a file, as `chain` takes it, checked."""
    own = [word for word in overrides if word.partition("=")[0] in ("out", "shared") or word.startswith("shared.")]
    return read_links(load_config(ChainConfig, path, own), Path(path).parent, [word for word in overrides if word not in own], flags)


def stage_configs(path: str, overrides: list[str], stage: str | None = None) -> dict[str, StageConfig]:
    """The whole configuration of each stage of a chain's file, by its name, or of one of them; nothing for a file of a single stage.

    Raises:
        ConfigError: the chain has no such stage.
    """
    if "stages" not in read_yaml(path):
        return {}
    found = {link.stage: link.config for link in open_chain(path, overrides, []) if link.config is not None}
    if stage is not None and stage not in found:
        raise ConfigError(f"The chain has no stage `{stage}`", path, f"Its stages are {', '.join(found)}.")
    return found if stage is None else {stage: found[stage]}


def read_links(config: ChainConfig, folder: Path, overrides: list[str], flags: list[str]) -> list[Link]:
    """The stages with their whole configurations, checked."""
    from omnivision_train.main import config_class

    out, links, last, pairs = Path(config.out), [], None, None
    words = {stage: [word.removeprefix(f"{stage}.") for word in overrides if word.startswith(f"{stage}.")]
             for stage in (*FOLLOWS, PAIRS)}
    named = [entry.get("stage") for entry in config.stages]
    unknown = [word for word in overrides if word.partition(".")[0] not in named]
    if unknown:
        raise ConfigError(f"`{unknown[0]}` is no key of the chain", "command line",
                          f"Give out=, shared.KEY=, or STAGE.KEY= of {', '.join(map(str, named))}.")
    check_keys(config, words)
    for entry in config.stages:
        keys = dict(entry)
        stage = keys.pop("stage", None)
        if stage == PAIRS:
            pairs = out / "pairs.jsonl"
            links.append(_pairs_link(keys, config.shared, words[PAIRS], last, pairs))
            continue
        if stage not in FOLLOWS or stage in [link.stage for link in links] or (last.stage if last else None) not in (FOLLOWS[stage] or (None,)):
            raise ConfigError(f"The stage {stage!r} cannot follow {last.stage if last else 'nothing'}", "stages",
                              "A chain has align, sft, pairs, dpo, functions in this order; pairs and dpo, or functions, may be left out.")
        file = keys.pop("config", None)
        tree = (read_yaml(folder / file) if file else {}) | config.shared | keys | {"out": str(out)}
        if last:
            tree = {key: getattr(links[0].config, key) for key in MAKES} | tree | {"start": str(last.result)}
        if stage == "dpo" and pairs and "data" not in keys:
            tree["data"] = [str(pairs)]
        made = load_tree(config_class(stage), tree, words[stage], f"{stage} of the chain")
        command = [sys.executable, "-m", "omnivision_cli", "train", stage, "--config", str(chain_file(out, stage))]
        last = Link(stage, [*command, "--", *flags] if flags else command, made, out / stage / "final", last)
        links.append(last)
    if not links:
        raise ConfigError("The chain has no stages", "stages", "Name at least one.")
    return links


def check_keys(config: ChainConfig, words: dict[str, list[str]]) -> None:
    """Where a stage writes and what it starts from is the chain's to say; a stage's file may say it for runs without the chain.

    Raises:
        ConfigError: a stage or `shared` has such a key, in the chain's file or on the command line.
    """
    asked = [("shared", config.shared)] + [(entry.get("stage"), entry) for entry in config.stages] + [
        (stage, [word.partition("=")[0] for word in given]) for stage, given in words.items()]
    for key, remedy in OWN.items():
        for stage, keys in asked:
            if key in keys:
                raise ConfigError(f"`{key}` is set for {stage}, and the chain sets it", f"{stage}.{key}", f"Remove it: {remedy}.")


def chain_file(out: Path, stage: str) -> Path:
    """Where the chain writes the whole configuration of a stage."""
    return out / f"{stage}.chain.yaml"


def _pairs_link(keys: dict, shared: dict, overrides: list[str], before: Link | None, result: Path) -> Link:
    if before is None or before.stage != "sft":
        raise ConfigError("`pairs` is not behind `sft`", "stages", "Pairs are made from the answers of the model after sft.")
    known = {field.name for field in dataclasses.fields(PairsConfig)} - {"data", "limit"}
    tree = {key: value for key, value in shared.items() if key in known} | keys
    config = dataclasses.asdict(load_tree(PairsConfig, tree, overrides, "pairs of the chain"))
    flags = [word for key, value in config.items() if value is not None for word in (f"--{key.replace('_', '-')}", str(value))]
    words = ["--model", str(before.result), *flags, "--out"]
    pairs_parser().parse_args([*words, os.devnull])  # refuses a number that cannot be, before any stage runs
    words.append(str(result))
    return Link(PAIRS, [sys.executable, "-m", "omnivision_cli", "data", "pairs", *words], None, result, before)


def pairs_note(link: Link) -> Path:
    """The file that says what pairs were made from."""
    return link.result.with_suffix(".made.json")


def made_from(link: Link) -> dict:
    """What the pairs of this chain are made from: the model's hand-over note, the data, and the command's words that make a difference."""
    words = link.command[3:]
    counting = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & {*NO_DIFFERENCE}]
    return {"model": file_hash(link.before.result / HAND_OVER), "data": source_hash(words[words.index("--data") + 1]), "words": counting}


def is_finished(link: Link) -> bool:
    """Whether a stage's result is there, and is what this chain would make. Pairs made from something else are made again.

    Raises:
        ConfigError: it is there and was made with other settings, from another model or other data, or was changed since.
    """
    if link.config is None:
        return link.result.is_file() and pairs_note(link).is_file() and read_json(pairs_note(link)) == made_from(link)
    if not (link.result / HAND_OVER).is_file():
        return False
    note = read_hand_over(link.result, (link.stage,), "chain")
    made, wanted = read_yaml(link.result.parent / "config.resolved.yaml"), dataclasses.asdict(link.config)
    free = MAY_CHANGE | set(MAKES if link.before else ())  # whose model it was is checked below
    changed = [key for key, value in wanted.items() if key not in free and made.get(key) != value]
    if other_batch(link, made):
        changed += BATCH
    if changed:
        raise ConfigError(f"`{link.stage}` has run with another {', '.join(changed)}", str(link.result.parent),
                          "Give the old values, another `out`, or remove the folder to run it again.")
    if link.before is not None and note["parent"] != file_hash(link.before.result / HAND_OVER):
        raise ConfigError(f"`{link.stage}` was made from another model than {link.before.result}", str(link.result),
                          "Remove the folder to run it again.")
    if other := changed_files(link.result.parent / MANIFEST):
        raise ConfigError(f"`{link.stage}` has run on what {', '.join(other)} held before", str(link.result.parent),
                          "Restore the files, or remove the folder to run it again.")
    return True


def other_batch(link: Link, made: dict) -> bool:
    """Whether a finished stage took another number of rows a step than it would now; no, where the launcher's flags do not tell its processes."""
    flags = launcher().parse_known_args(link.command[link.command.index("--") + 1 :] if "--" in link.command else [])[0]
    ran = read_json(link.result.parent / "env.json").get("processes")
    now = link.config.processes if "--" not in link.command else flags.num_gpus and flags.num_gpus * flags.num_nodes
    if not ran or not now:
        return False
    return made["batch_size"] * made["accumulation"] * ran != link.config.batch_size * link.config.accumulation * now


def launcher() -> argparse.ArgumentParser:
    """The flags of DeepSpeed's launcher that say how many processes there are."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--num_gpus", "--num_accelerators", type=int)
    known.add_argument("--num_nodes", type=int, default=1)
    return known


def changed_files(manifest: Path) -> list[str]:
    """Files that a finished stage has read and that are others now; one that is gone is no reason to train anew."""
    read = {name: one["sha256"] for name, one in read_json(manifest).items() if isinstance(one, dict) and "sha256" in one} if manifest.is_file() else {}
    return [name for name, known in read.items() if (name.startswith(HUB) or Path(name).exists()) and source_hash(name) != known]


def _run(command: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr.fileno())  # stdout is for the chain's own result
    try:
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if code:
        raise SystemExit(128 - code if code < 0 else code)  # the stage has said why

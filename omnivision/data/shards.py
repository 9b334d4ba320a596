"""Tar shards in webdataset's layout: members that share a name up to the first dot are one record."""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

from omnivision.data.fields import IMAGES
from omnivision.data.formats import PICTURE_KEY
from omnivision.data.messages import named_parts
from omnivision.data.pictures import MAX_BYTES, TarPicture, state_of
from omnivision.data.raw import MAX_LINE, Record, bad_row, broken, parse, printable
from omnivision.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
OTHER_PICTURES = (".bmp", ".gif", ".tif", ".tiff", ".jfif", ".jpe", ".avif", ".heic")
NUMBERED = re.compile(r"\.(\d+)\.\w+")  # the suffix of one picture of several


def read_shard(path: Path) -> Iterator[Record]:
    """The records of a shard, pictures where they lie in it.

    Raises:
        DataError: it is damaged or cut.
    """
    members: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                members.append(member)
            _check_end(path, shard.offset)
            state = state_of(os.fstat(shard.fileobj.fileno()))
            names = {_plain(member.name) for member in members}
            members = [member for member in members if not member.isdir()]
            groups = Counter(key for key, _ in groupby(members, _key))
            for key, group in groupby(members, _key):
                if groups[key] > 1:
                    yield broken("its members do not lie together in the shard: make it anew with those of each record side by side", f"{path}::{key}")
                    continue
                gathered = _Gathered(key)
                for member in group:
                    gathered.add(shard, member, path, state)
                yield gathered.record(path, names)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"The shard is broken: {error}", f"{path}::{_key(members[-1]) if members else ''}", "Copy the shard again.") from error


def _key(member: tarfile.TarInfo) -> str:
    """The member's name up to the first dot behind the last slash."""
    path = PurePosixPath(member.name)
    return printable(str(path.parent / path.name.partition(".")[0]))


def _plain(name: str) -> str:
    """A member's name without ./ and double slashes."""
    return str(PurePosixPath(printable(name)))


def _check_end(path: Path, offset: int) -> None:
    """tarfile takes a damaged header for the end, and what follows would be lost in silence."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(512)
        if len(rest) < 512 or any(rest) or any(any(block) for block in iter(lambda: file.read(1 << 20), b"")):
            raise tarfile.ReadError("it has no end mark, or goes on behind it")


class _Gathered:
    """The members of one key."""

    def __init__(self, key: str) -> None:
        self.key, self.raw, self.pictures, self.error = key, {}, {}, None
        self.texts, self.unread = set(), None

    def record(self, path: Path, names: set[str]) -> Record:
        """What they are together; `names` are those of all members of the shard."""
        source = f"{path}::{self.key}"
        if self.error:
            return Record(None, source, self.error)
        try:
            return Record(self._filled({"id": self.key, **self.raw}, names), source)
        except ValueError as error:
            return Record(None, source, bad_row(error, source))

    def _filled(self, raw: dict, members: set[str]) -> dict:
        """The record with its pictures in the place of the names that its columns, or the parts of its messages, have for them."""
        columns = next((raw[key] for key in ("images", *IMAGES) if raw.get(key)), [])
        columns = columns if isinstance(columns, list) else [columns]
        parts = [] if columns else named_parts(raw)
        names = columns or [name for _, name in parts]
        self._check_own(names, members)
        if self.unread and not self.pictures and not names:
            raise ValueError(f"its picture {self.unread} is of a kind that shards are not read with: write {', '.join(PICTURES)}")
        if not self.pictures:
            return raw  # names lie below the image root
        found = chosen(self.pictures, names)
        self._check_unread(raw, found)
        raw = {name: value for name, value in raw.items() if name not in ("images", *IMAGES)}
        if not parts:
            return {**raw, "images": found}
        for (part, _), picture in zip(parts, found, strict=True):
            part.clear()
            part.update(type="image", image=picture)
        return raw

    def _check_own(self, names: list, members: set[str]) -> None:
        folder = PurePosixPath(self.key).parent
        own = {_plain(picture.member) for picture in self.pictures.values()} | {suffix[1:] for suffix in self.pictures}
        for name in names:
            meant = {_plain(name), str(folder / name)} if isinstance(name, str) else set()
            if not own & meant and members & meant:
                raise ValueError(f"its JSON names {name[:200]}, which is another record's: members of one record share their name up to the first dot")

    def _check_unread(self, raw: dict, found: list[TarPicture]) -> None:
        """A second picture under a key of its own, as formats.py has it; what is read replaces the columns."""
        unread = {word for suffix, picture in self.pictures.items() if picture not in found for word in (suffix[1:], PurePosixPath(picture.member).name)}
        for key, value in raw.items():
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and (key in IMAGES or PICTURE_KEY.search(key)) and PurePosixPath(name).name in unread:
                    raise ValueError(f"{key!r} of its JSON names {name[:200]}, which is not read: write all of its pictures into `images`")

    def add(self, shard: tarfile.TarFile, member: tarfile.TarInfo, path: Path, state: tuple[int, ...]) -> None:
        """Takes a member in, or keeps what is wrong with it."""
        name = printable(member.name)
        suffix = "." + PurePosixPath(member.name).name.partition(".")[2].lower()
        source, most = f"{path}::{name}", MAX_LINE if suffix in (".json", ".txt") else MAX_BYTES
        if not member.isfile():
            self.error = bad_row("the member is a link or a device", source)
        elif member.size > most:
            self.error = bad_row(f"the member has {member.size:,} bytes; at most {most:,}", source)
        elif suffix.endswith(PICTURES):
            if suffix in self.pictures:
                self.error = bad_row("two of its members have one name", source)
            self.pictures[suffix] = TarPicture(str(path), name, member.offset_data, member.size, state)
        elif suffix.endswith(OTHER_PICTURES):
            self.unread = name
        elif suffix in (".json", ".txt"):  # webdataset keeps anything beside: classes, embeddings
            self._add_text(shard.extractfile(member).read(), suffix, source)

    def _add_text(self, data: bytes, suffix: str, source: str) -> None:
        try:
            text = data.decode("utf-8-sig")
            value = parse(text) if suffix == ".json" else {"caption": text.strip()}
        except ValueError as error:
            self.error = bad_row(error, source)
            return
        if not isinstance(value, dict):
            self.error = bad_row("the member is no JSON object", source)
        elif suffix in self.texts:
            self.error = bad_row("two of its members have one name", source)
        elif other := [key for key in value if key in self.raw and str(value[key]).strip() != str(self.raw[key]).strip()]:
            self.error = bad_row(f"its .json and its .txt have another `{other[0]}` each", source)
        self.texts.add(suffix)
        self.raw.update(value if isinstance(value, dict) else {})


def chosen(pictures: dict[str, TarPicture], names: list) -> list[TarPicture]:
    """A record's pictures, in order: those that its JSON names; else plain ones (`1.png`) and numbered ones (`1.0.png`, `1.1.png`).

    Others (`1.seg.png`: masks, depths) only lie beside, unless there is one picture alone.

    Args:
        pictures: by their suffix, ".png" or ".0.png". names: of the JSON; may be those from before the shard was made.

    Raises:
        ValueError: it cannot be told which they are, or in which order they stand.
    """
    plain = [suffix for suffix in pictures if suffix in PICTURES]
    numbered = sorted((suffix for suffix in pictures if NUMBERED.fullmatch(suffix)), key=_number)
    own = [*plain, *numbered] or (list(pictures) if len(pictures) == 1 else [])
    has = f"the shard has {', '.join(one.member for one in pictures.values())}"
    if any(isinstance(name, str) and name.startswith("data:") for name in names):
        raise ValueError(f"its JSON holds a picture, and {has}: leave one of them")
    if not names:
        if not own:
            raise ValueError(f"{has}: name the row's own in `images` of its JSON")
        return [pictures[suffix] for suffix in own]
    called = {word: picture for suffix, picture in pictures.items() for word in (suffix[1:], PurePosixPath(picture.member).name)}
    found = [called.get(PurePosixPath(name).name) for name in names if isinstance(name, str)]
    if len(set(found)) == len(names) and None not in found:
        return found
    if len(own) == len(names) and (len(own) == 1 or [_number(suffix) for suffix in own] in (list(range(len(own))), list(range(1, len(own) + 1)))):
        return [pictures[suffix] for suffix in own]
    raise ValueError(f"its JSON names {', '.join(map(str, names))[:200]}, and {has}")


def _number(suffix: str) -> int:
    found = NUMBERED.fullmatch(suffix)
    return int(found[1]) if found else -1

"""Where a picture lies: a file below the image root, or bytes inside a tar shard, a table or the row itself."""

from __future__ import annotations

import base64
import binascii
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache

from omnivision.data.image import contained
from omnivision.errors import DataError

MAX_BYTES = 64_000_000  # of one packed picture


def state_of(found: os.stat_result) -> tuple[int, ...]:
    """Tells that a file has changed."""
    return found.st_mtime_ns, found.st_size, found.st_ino


class Packed(ABC):
    """A picture that is no file of its own. `str()` names it, `read()` gives its bytes."""

    @abstractmethod
    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            DataError: it is not there any more.
        """


@dataclass(frozen=True)
class TarPicture(Packed):
    """A member of a tar shard, read at its place without unpacking the shard."""

    file: str
    member: str
    offset: int
    size: int
    state: tuple[int, ...] = field(default=(), compare=False, repr=False)  # tells that the shard is another one than its rows were read from

    def __str__(self) -> str:
        return f"{self.file}::{self.member}@{self.offset}"  # two members may have one name

    def read(self) -> bytes:
        try:
            with open(self.file, "rb") as shard:
                if self.state and self.state != state_of(os.fstat(shard.fileno())):
                    raise DataError("The shard has changed since its rows were read", str(self), "Start again, with the shards as they are now.")
                shard.seek(self.offset)
                found = shard.read(self.size)
        except OSError as error:
            raise DataError("The shard cannot be read", str(self), f"{error.strerror}; put it back.") from error
        if len(found) != self.size:
            raise DataError(f"The shard ends inside the picture: {len(found)} of {self.size} bytes", str(self), "Copy the shard again.")
        return found


@dataclass(frozen=True)
class TablePicture(Packed):
    """A cell of a Parquet file or saved data set: its position-th picture."""

    file: str
    row: int
    column: str
    position: int

    def __str__(self) -> str:
        return f"{self.file}[{self.row}].{self.column}[{self.position}]"

    def read(self) -> bytes:
        from omnivision.data.tables import picture_bytes

        return picture_bytes(self)


@dataclass(frozen=True)
class InlinePicture(Packed):
    """A data: URI of the row itself."""

    name: str
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class UrlPicture(Packed):
    """A picture on the web, fetched once; only where the data's reader was told to allow it."""

    url: str
    folder: str

    def __str__(self) -> str:
        return self.url

    def read(self) -> bytes:
        return _url_cache(self.folder).get(self.url)


def from_data_uri(uri: str, name: str) -> InlinePicture:
    """The picture in `data:image/png;base64,...`.

    Raises:
        ValueError: another kind of URI, or broken base64.
    """
    head, comma, body = uri.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ValueError(f"a data URI begins {head[:40]!r}, not data:image/...;base64")
    if len(body) > MAX_BYTES * 4 // 3:
        raise ValueError(f"a data URI of {len(body):,} characters; at most {MAX_BYTES * 4 // 3:,}")
    try:
        return InlinePicture(name, base64.b64decode(body, validate=True))
    except binascii.Error as error:
        raise ValueError(f"a data URI whose base64 is broken ({error})") from error


@lru_cache(maxsize=1 << 16)
def locate(image: str | Packed, root: str) -> str | Packed:
    """Where a row's picture lies: its path below the image root, or the packed picture as it is.

    Raises:
        ImageError: the path leaves the root, or no file can have the name.
    """
    return image if isinstance(image, Packed) else str(contained(root, image))


@lru_cache(maxsize=4)
def _url_cache(folder: str):
    from omnivision.data.fetch import UrlCache

    return UrlCache(folder)

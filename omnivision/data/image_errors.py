"""What can be wrong with a picture, one class a kind."""

from __future__ import annotations

from omnivision.errors import DataError


class ImageError(DataError):
    """A picture that cannot be used.

    `kind` is one word, for reports that count. Each kind has its class, since worker processes hand an exception on as
    its class and its text alone.
    """

    kind, advice = "broken", "Copy or export it again."

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy or (self.advice if where else ""))


class MissingImage(ImageError):
    """No such file, or no possible name of one."""

    kind, advice = "missing", "Check the path."


class UnreadableImage(ImageError):
    """A folder, pipe, socket or device; no permission; an I/O error; an archive that fails."""

    kind, advice = "unreadable", "Check the path, its permissions and the disk."


class OutsideImage(ImageError):
    """A name that leads out of the data root."""

    kind, advice = "outside", "Name a file below the root; links may not leave it."


class EmptyImage(ImageError):
    """No bytes."""

    kind = "empty"


class WrongFormat(ImageError):
    """Not JPEG, PNG or WebP by its content."""

    kind, advice = "format", "Give a JPEG, PNG or WebP file."


class TooLarge(ImageError):
    """Too many pixels, bytes, scans or texts."""

    kind, advice = "too_large", "Scale it down or export it again."


class Animated(ImageError):
    """Several frames, and nobody asked for the first."""

    kind, advice = "animated", "Save the one frame that you mean."


class Truncated(ImageError):
    """The file ends before its picture does."""

    kind = "truncated"


class BrokenImage(ImageError):
    """Damaged, or against its format's rules."""

"""Puts off packages that transformers' Trainer imports whole and a run may never use: `datasets`, with pandas and pyarrow, holds 84 MB of a process."""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType

LOCK = threading.RLock()


class _PutOff(ModuleType):
    """A module that runs its code when somebody first asks for a name in it. importlib's LazyLoader would already run it for find_spec."""

    def __getattr__(self, name: str) -> object:
        with LOCK:  # other threads wait here until it has run
            if type(self) is _PutOff:
                self.__class__ = _Running
                try:
                    self.__spec__.loader.exec_module(self)
                except BaseException:
                    del sys.modules[self.__name__]  # as a failed import leaves none
                    raise
                finally:
                    self.__class__ = ModuleType
            return ModuleType.__getattribute__(self, name)


class _Running(_PutOff):
    """The same while its code runs, which may ask for names that are not there yet."""


def put_off(name: str) -> None:
    """`import name` finds the package, but runs it only when it is used. Nothing where it is loaded, or not installed."""
    if name in sys.modules or (spec := importlib.util.find_spec(name)) is None:
        return
    sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.modules[name].__class__ = _PutOff

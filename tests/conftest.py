"""What every test shares: no network, and the pieces of the real benchmarks where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OFFICIAL_DATA = Path(os.environ.get("OMNIVISION_OFFICIAL_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    if "network" not in config.option.markexpr.replace("not network", ""):
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork; the warning would drown the output


def pytest_report_header() -> str:
    return f"official data: {'found' if OFFICIAL_DATA.is_dir() else 'not found, its tests are left out (set OMNIVISION_OFFICIAL_DATA)'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if OFFICIAL_DATA.is_dir():
        return
    left_out = [item for item in items if item.get_closest_marker("official_data")]
    items[:] = [item for item in items if not item.get_closest_marker("official_data")]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def official_data() -> Path:
    """The folder with pieces of the real benchmarks; only for tests marked official_data."""
    return OFFICIAL_DATA

"""Fixtures for all tests."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).resolve().parent / "fixtures"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of reference numbers."""
    return FIXTURES


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds Union14M-L and Union14M-U; tests that need it are skipped where it is missing."""
    root = REPOSITORY.parent / "shared" / "data"
    if not (root / "Union14M-L").is_dir() or not (root / "Union14M-U").is_dir():
        pytest.skip(f"real words are not at ../shared/data: {root} holds no Union14M-L and Union14M-U")
    return root

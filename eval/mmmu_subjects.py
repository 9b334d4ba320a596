"""MMMU's 30 subjects in six disciplines, and the subject that an id names.

Source: mmmu/utils/data_utils.py of MMMU-Benchmark/MMMU@bb0b95a.
"""

from __future__ import annotations

import re

from omnivision.errors import DataError

DISCIPLINES: dict[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": ("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
                            "Public_Health"),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": ("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
                             "Materials", "Mechanical_Engineering"),
}
# the order in which the official code reads subjects, and so draws random options, is the alphabet's
SUBJECTS = tuple(sorted(subject for subjects in DISCIPLINES.values() for subject in subjects))


def subject_of(key: str) -> str:
    """The subject in an id such as validation_Art_Theory_3.

    Raises:
        DataError: the id names no subject.
    """
    found = re.fullmatch(r"[a-z]+_(\w+)_\d+", key)
    if found is None or found[1] not in SUBJECTS:
        raise DataError(f"The id {key!r} names no subject of MMMU", "MMMU", "Ids look like validation_Art_Theory_3.")
    return found[1]

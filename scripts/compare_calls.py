#!/usr/bin/env python
"""Functional tokens beside function descriptions in the prompt: accuracy, prompt, time and memory on one model and one set of questions.

    .venv/bin/python scripts/compare_calls.py --start runs/quickstart/sft/final --out runs/calls
"""

import sys

from omnivision_cli.failures import describe, report
from omnivision_eval.calls_comparison.main import main

from omnivision.errors import OmniError

if __name__ == "__main__":
    try:
        main()
    except OmniError as error:
        sys.exit(report(describe(error), "--json" in sys.argv))

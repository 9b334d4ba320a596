#!/usr/bin/env python
"""How fast the stages are beside stock TRL, on equal work; or what each lever is worth.

    .venv/bin/python scripts/benchmark_training.py --out runs/benchmark
    .venv/bin/python scripts/benchmark_training.py --levers --out runs/levers
"""

import sys

from omnivision_cli.failures import describe, report
from omnivision_train.benchmark.main import main

from omnivision.errors import OmniError

if __name__ == "__main__":
    try:
        sys.exit(main())
    except OmniError as error:
        sys.exit(report(describe(error), as_json=False))

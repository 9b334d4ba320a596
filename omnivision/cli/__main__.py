"""`python -m omnivision_cli`: the console command for launchers that start from an interpreter."""

import sys

from omnivision_cli.main import main

if __name__ == "__main__":
    sys.exit(main())

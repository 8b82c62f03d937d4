"""`python -m sciflow`."""

import sys

from sciflow.cli.main import main

sys.exit(main())

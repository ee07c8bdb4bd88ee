"""`python -m litespark.cli` is the command `litespark`."""

import sys

from litespark.cli import main

sys.exit(main())

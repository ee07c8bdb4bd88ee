"""What the tests, and the processes that they start as `-m tests.…`, do first."""

from litespark.light_torchmetrics import import_lightly

import_lightly()

"""What a run imports, for `tests.warm_processes`."""

from litespark.light_torchmetrics import import_lightly
from litespark.threads import decide_threads

decide_threads()
import_lightly()

import litespark.models.llama.model  # noqa: E402
import litespark.ops.attention.sdpa  # noqa: E402
import litespark.run.train  # noqa: E402, F401

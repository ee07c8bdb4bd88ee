"""A run under SLURM whose time is over goes back into the queue, to continue by itself."""

import logging
import os
import subprocess
from collections.abc import Mapping

log = logging.getLogger(__name__)

_SECONDS = 60


def requeue(*, continues: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Ask SLURM to queue this job again, where it then `continues`; another one is told what it lacks."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else environment.get("SLURM_JOB_ID")
    if job is None:
        return
    if not continues:
        log.warning("job %s is not queued again: it would start anew; give it name=NAME resume=auto", job)
        return
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        log.warning("%s failed (%s); queue the job again by hand: %s", command[0], said, " ".join(command))
    else:
        log.warning("job %s is queued again, to continue from what was saved", job)

"""The faults that a run may meet, what happens then, and the tests that show it, as docs/reliability.md has them.

`python -m tests.faults` writes the page anew.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
_ROWS, _BAD = "tests/end_to_end/bad_input.py", "tests/end_to_end/test_bad_input.py"
_SAVES, _RANKS = "tests/training/checkpoint/test_folder.py", "tests/training/test_two_ranks.py"
_RESUME, _RESTARTS = "tests/end_to_end/test_resume.py", "tests/end_to_end/test_restarts.py"

# fault -> what happens, and the tests, PATH::NAME of a test or of a row of bad input; none: nothing of it is built
FAULTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "`kill -9` in a step": (
        "the run goes on from the newest valid checkpoint, with the weights, data and tokens of an undisturbed one, "
        "bit for bit on the same ranks",
        (
            f"{_RESUME}::test_killed_and_resumed_run_is_bit_equal",
            f"{_RESUME}::test_killed_and_resumed_run_of_two_processes_is_bit_equal",
            f"{_RESTARTS}::test_the_command_that_started_a_killed_run_goes_on_with_it_and_leaves_a_finished_one",
        ),
    ),
    "`kill -9` of one rank under torchrun": (
        "the others end; with `--max-restarts` and `resume=auto` all start again and the run ends finished",
        (f"{_RESTARTS}::test_torchrun_restarts_a_run_whose_rank_was_killed_and_it_ends_finished",),
    ),
    "`kill -9` while a checkpoint is written": (
        "it does not count, and the one before is taken",
        (f"{_SAVES}::test_kill_9_at_any_moment_leaves_a_valid_checkpoint",),
    ),
    "disk full while a checkpoint is written": (
        "room is looked for before; an error of one rank is one of all, and the earlier checkpoints stay",
        (f"{_RANKS}::test_what_happens_to_one_rank_ends_the_run_on_both",),
    ),
    "disk full while data is prepared": (
        "an error that says so; what fitted is kept",
        (
            "tests/data/prepare/test_faults.py::test_a_disk_that_fills_midway_is_an_error_that_says_so_and_what_fitted_is_kept",
        ),
    ),
    "folder of runs that cannot be written": ("refused at the start", (f"{_ROWS}::file for the folder of runs",)),
    "checkpoint with a flipped bit, a missing or mixed file": (
        "hashes are verified before anything is taken; the file is named, and the checkpoint before is taken",
        (
            f"{_ROWS}::checkpoint with a flipped bit",
            f"{_ROWS}::checkpoint of another model",
            f"{_SAVES}::test_damage_is_refused_by_name_and_the_one_before_is_found",
        ),
    ),
    "pickle in place of a checkpoint, code in a model folder": (
        "refused; nothing is unpickled and no code of a folder is run",
        (
            f"{_ROWS}::pickle for a checkpoint",
            f"{_ROWS}::pickle in a sealed checkpoint",
            f"{_ROWS}::model with code of its own",
        ),
    ),
    "config that calls what it should not": (
        "refused unless it is on the list",
        (f"{_ROWS}::target that calls a function", f"{_ROWS}::target deep inside"),
    ),
    "chunk of data that is truncated, missing or flipped": (
        "size at the start, hash by setting; the file is named",
        (
            f"{_ROWS}::truncated chunk",
            "tests/data/stream/test_reading_prepared.py::test_a_damaged_chunk_is_named_at_the_start",
            "tests/data/stream/test_cache.py::test_a_cached_chunk_of_another_size_or_hash_is_fetched_again",
        ),
    ),
    "id beyond the vocabulary": (
        "refused on the host, with sample and file",
        ("tests/data/stream/test_reading_prepared.py::test_an_id_outside_the_vocabulary_is_found_on_the_host",),
    ),
    "malformed line, binary text, cut archive": (
        "counted by reason, and an error above a share",
        (
            f"{_ROWS}::lines that are not JSON",
            f"{_ROWS}::text that is binary",
            f"{_ROWS}::archive that is cut",
        ),
    ),
    "loss or gradient that is not finite, on one rank": (
        "all ranks skip the same step; too many in a row end the run",
        (
            f"{_RANKS}::test_a_step_that_is_bad_on_one_rank_is_skipped_by_both",
            f"{_RANKS}::test_what_happens_to_one_rank_ends_the_run_on_both",
        ),
    ),
    "loss spike": ("nothing yet: it is in the log of the loss, and no step is skipped or taken back for it", ()),
    "too little memory": (
        "known before the start where it can be; else one message on all ranks with a smaller micro-batch",
        (
            "tests/run/test_preflight.py::test_a_model_whose_state_exceeds_the_memory_is_refused_before_it_is_built",
            "tests/run/test_train.py::test_out_of_memory_is_told_a_micro_batch_that_divides_the_step",
        ),
    ),
    "energy meter lost in a run": (
        "the coverage falls, joules are never guessed, and training goes on",
        (
            "tests/metrics/test_energy.py::"
            "test_a_lost_device_shows_in_the_coverage_and_never_as_half_the_energy_and_its_gap_is_credited_to_none",
        ),
    ),
    "other strategy or number of ranks on a resume": (
        "the run goes on, from what any strategy wrote on any number of ranks",
        (
            "tests/training/checkpoint/test_resharding.py::test_every_strategy_reads_what_any_other_wrote",
            f"{_RESUME}::test_resume_on_two_processes_continues_a_run_of_one",
        ),
    ),
    "other model or data on a resume": (
        "refused, with what differs",
        (f"{_ROWS}::model changed on resume", f"{_ROWS}::data changed on resume"),
    ),
    "rank that hangs": (
        "all ranks write their stacks after `strategy.hang_seconds` and end",
        ("tests/end_to_end/test_hang.py::test_a_rank_that_hangs_ends_all_with_their_stacks",),
    ),
    "error on all ranks": (
        "one message",
        (f"{_BAD}::test_one_rank_of_two_refuses_a_batch_that_suits_one",),
    ),
    "SIGTERM, SIGINT, SIGUSR1, SIGHUP, SIGQUIT": (
        "the step is finished and saved, the command to continue is printed, exit code 75; under SLURM SIGUSR1 queues "
        "the job again",
        (
            "tests/end_to_end/test_launchers.py::test_what_torchrun_passes_on_or_one_rank_gets_ends_all",
            "tests/run/test_train.py::test_only_the_signal_that_time_is_over_queues_a_job_again",
            "tests/run/test_requeue.py::test_it_is_queued_again_only_where_it_would_continue",
        ),
    ),
    "unknown GPU": (
        "no MFU, one warning, and the key to set",
        ("tests/metrics/test_hardware.py::test_variants_slices_and_unknown_devices_have_no_peak",),
    ),
}


def page() -> str:
    """The page, in Markdown."""
    lines = [
        "# Reliability: what may go wrong, and what happens then",
        "",
        "Each row is shown by tests, most of them with real processes and real files. Where there is none, nothing of",
        "the kind is built. The page is rendered from `tests/faults.py`.",
        "",
        "| fault | what happens | shown by |",
        "|---|---|---|",
    ]
    for fault, (happens, tests) in FAULTS.items():
        shown = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests) or "-"
        lines.append(f"| {fault} | {happens} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())

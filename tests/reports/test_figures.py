"""Figures in documents are found, and each has to be what its record says."""

import pytest

from litespark.reports.figures import check_document, check_documents, documents, figures
from litespark.reports.markdown_blocks import BEGIN, END, blocks
from tests.reports.synthetic_records import GPU, results_folder, step_record

# milliseconds for 1000 tokens; 4 J over 2000 tokens in all
RECORD = {"litespark": 10.0, "standard": 8.0, "sdpa": 25.0}
FILE = f"results/{GPU.lower().replace(' ', '-')}/2026-01-31_bench-step_tiny_bf16.json"


def anchor(path: str) -> str:
    return f"<!-- record: {FILE}#{path} -->"


@pytest.fixture
def root(tmp_path):
    made = step_record(RECORD)
    made.variants[2].rounds[0].peak_memory_mib = 1536.0
    results_folder(tmp_path, made)
    return tmp_path


def found(text: str) -> list[str]:
    return [figure.text for block in blocks(text) for figure in figures(block.text, block.header)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("33,121 tokens/s, 33.1 k tokens/s and 12 tok/s", ["33,121 tokens/s", "33.1 k tokens/s", "12 tok/s"]),
        ("a step of 492 ms, 332-378 ms in fp8", ["492 ms", "332", "378 ms"]),
        ("after 12 minutes, 90 seconds or 3 h", ["12 minutes", "90 seconds", "3 h"]),
        ("790 TFLOP/s, 4.3 TB/s, 540 GB/s", ["790 TFLOP/s", "4.3 TB/s", "540 GB/s"]),
        ("0.021 J/token, 21 mJ/token, 3.2 kWh, 640 W", ["0.021 J/token", "21 mJ/token", "3.2 kWh", "640 W"]),
        ("66 % MFU, 55–83 % less, -6 %", ["66 %", "55", "83 % less", "-6 %"]),
        ("2.1x, 2x–6x, 3 × as much, 3.5 times faster", ["2.1x", "2x", "6x", "3 ×", "3.5 times faster"]),
        ("twice as fast on half the energy", ["twice as fast", "half the energy"]),
        ("peaks at 38.2 GiB, 1.93 bits per byte, 4.68 nats", ["38.2 GiB", "1.93 bits per byte", "4.68 nats"]),
        ("MFU (C) of 0.48, a loss of 4.68", ["MFU (C) of 0.48", "loss of 4.68"]),
        ("4 x 4096 rows, sm_80, 1e-5, llama-3, H200, 3 billion, `seed=1`, 28 layers, Python 3.11", []),
        ("100 <!-- a comment of 3 ms -->", []),
    ],
)
def test_what_is_a_figure(text, expected):
    assert found(text) == expected


def test_numbers_under_a_heading_with_a_unit_are_figures():
    table = "| model | tokens/s | layers | MFU C |\n|---|---|---|---|\n| 3b | 33,121 (33,000 to 34,000) | 28 | 66.1 |\n"
    assert found(table) == ["33,121", "33,000", "34,000", "66.1"]


@pytest.mark.parametrize(
    "printed, path",
    [
        ("100,000 tokens/s", "rows.litespark.tokens_per_second"),
        ("100 k tokens/s", "rows.litespark.tokens_per_second.median"),
        ("40.0 k tokens/s", "rows.sdpa.tokens_per_second"),
        ("2.5x", "ratios.litespark.sdpa.tokens_per_second"),
        ("2.50 times faster", "ratios.litespark.sdpa.tokens_per_second.low"),
        ("150 % more", "ratios.litespark.sdpa.tokens_per_second"),
        ("20 % less", "ratios.litespark.standard.tokens_per_second"),
        ("1.5 GiB", "rows.sdpa.peak_memory_mib"),
        ("10 ms", "rows.litespark.step_ms_median"),
        ("0.010 s", "rows.litespark.step_ms_median"),
        ("2 mJ/token", "rows.litespark.joules_per_token"),
        ("200 W", "rows.litespark.watts"),
        ("25.0 ms", "variants.sdpa.rounds.0.step_ms.1"),
        ("loss 5.00", "rows.sdpa.loss"),
    ],
)
def test_a_figure_that_is_its_record_rounded_to_the_printed_digits_is_backed(root, printed, path):
    assert check_document(f"It reaches {printed} {anchor(path)}.", "README.md", root) == []


@pytest.mark.parametrize(
    "printed, path, complaint",
    [
        ("101 k tokens/s", "rows.litespark.tokens_per_second", "is not what its record says"),
        ("99,999 tokens/s", "rows.litespark.tokens_per_second", "is not what its record says"),
        ("100 tokens/s", "rows.litespark.tokens_per_second", "is not what its record says"),
        ("10 s", "rows.litespark.step_ms_median", "is not what its record says"),
        ("2.51x", "ratios.litespark.sdpa.tokens_per_second", "is not what its record says"),
        ("80 % less", "ratios.litespark.standard.tokens_per_second", "is not what its record says"),
        ("thrice as fast", "ratios.litespark.sdpa.tokens_per_second", "is not what its record says"),
        ("2x", "ratios.litespark.compiled.tokens_per_second", "got 'not part of this benchmark', expected a number"),
        ("3 J/token", "rows.litespark.colour", "has no 'rows.litespark.colour'"),
        ("3 GiB", "rows.litespark.peak_memory_mib", "got None, expected a number that was measured"),
        ("3 %", "complete", "got True, expected a number"),
        ("3 %", "", "expected results/DEVICE/FILE.json#PATH"),
    ],
)
def test_a_figure_that_its_record_does_not_say_is_a_problem(root, printed, path, complaint):
    (problem,) = check_document(f"It reaches\n{printed} {anchor(path)}.", "README.md", root)
    assert problem.startswith("README.md:2: ")
    assert complaint in problem


def test_a_figure_without_a_record_is_a_problem_at_its_line(root):
    (problem,) = check_document("# Speed\n\nIt is fast:\nit makes 100 k tokens/s.", "README.md", root)
    assert problem.startswith("README.md:4: '100 k tokens/s' states a figure without a record")


def test_an_anchor_backs_the_one_figure_before_it(root):
    speed, time = anchor("rows.litespark.tokens_per_second"), anchor("rows.litespark.step_ms_median")
    assert check_document(f"100 k tokens/s {speed} at 10 ms {time}", "a.md", root) == []
    (problem,) = check_document(f"100 k tokens/s at 10 ms {time}", "a.md", root)
    assert "'100 k tokens/s'" in problem
    (problem,) = check_document(f"fast {time}", "a.md", root)
    assert "an anchor without a figure before it" in problem


def test_a_record_that_is_missing_or_was_changed_backs_nothing(root):
    text = f"100 k tokens/s {anchor('rows.litespark.tokens_per_second')}"
    path = root / FILE
    path.write_text(path.read_text().replace("25.0", "24.0"))
    (problem,) = check_document(text, "a.md", root)
    assert "the file was changed after it was written" in problem
    path.unlink()
    (problem,) = check_document(text, "a.md", root)
    assert "No such file" in problem


def test_what_is_cited_or_a_setting_is_backed_within_its_block(root):
    assert check_document("Up to 6x and 83 % less <!-- cited: arXiv 2510.02483 -->", "a.md", root) == []
    assert check_document("every 100 ms <!-- setting -->, at most 9 minutes <!-- setting -->", "a.md", root) == []
    assert len(check_document("every 100 ms <!-- setting -->\n\nUp to 6x.", "a.md", root)) == 1
    assert len(check_document("- every 100 ms <!-- setting -->\n- up to 6x", "a.md", root)) == 1
    assert len(check_document("every 100 ms <!-- setting --> and up to 6x", "a.md", root)) == 1
    (problem,) = check_document("up to 6x <!-- cited: -->", "a.md", root)
    assert "got no source" in problem


@pytest.mark.parametrize("between", ["", "\n"])
def test_an_anchor_alone_backs_the_whole_block_before_it(root, between):
    table = "| claim | here |\n|---|---|\n| 2x–6x | no |\n| 83 % less | no |\n"
    code = "```\nstep 492 ms\n\nstep 493 ms\n```\n"
    for block in (table, code):
        assert check_document(f"{block}{between}<!-- cited: arXiv 2510.02483 -->\n", "a.md", root) == []
        assert len(check_document(block, "a.md", root)) == len(found(block)) >= 2
        assert len(check_document(f"{block}\nText.\n\n<!-- cited: x -->\n", "a.md", root)) >= 2
    # a record is of one figure, so that it backs no table
    assert check_document(f"{table}{between}{anchor('rows.sdpa.loss')}\n", "a.md", root)


def test_what_is_rendered_between_the_markers_is_not_looked_at(root):
    assert check_document(f"{BEGIN}\n\n100 k tokens/s\n\n{END}\n", "a.md", root) == []
    assert len(check_document(f"{BEGIN}\n\n{END}\n\n100 k tokens/s\n", "a.md", root)) == 1


def test_readme_docs_results_and_the_text_of_notebooks_are_looked_at(root):
    for folder in ("docs", "notebooks"):
        (root / folder).mkdir()
    for name in ("README.md", "docs/ops.md", "results/NEGATIVE.md"):
        (root / name).write_text("100 k tokens/s\n")
    (root / "notebooks" / "01.py").write_text(
        "# %% [markdown]\n# It makes 100 k tokens/s.\n\n# %%\nx = '3 ms'  # 3 ms\n"
    )
    assert set(documents(root)) == {
        "README.md",
        "docs/ops.md",
        "results/NEGATIVE.md",
        "results/README.md",
        "notebooks/01.py",
    }
    problems = check_documents(root)
    assert [problem.split(": ")[0] for problem in problems] == [
        "README.md:1", "docs/ops.md:1", "results/NEGATIVE.md:1", "notebooks/01.py:2",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["It takes 3 ms `<!-- setting -->`.\n", "```\n3 ms <!-- setting -->\n```\n"])
def test_an_anchor_that_is_shown_as_code_backs_nothing(root, text):
    (root / "README.md").write_text(text)
    (problem,) = check_documents(root)
    assert "3 ms" in problem

"""Pictures show what was measured, say what was not, and leave matplotlib's global state alone."""

import shutil

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from litespark.metrics import names
from litespark.reports import plots
from litespark.reports.runs import load_run, load_runs
from tests.reports.synthetic_runs import write_run


def texts(figure: Figure) -> str:
    """Everything written in the picture."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def legend(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for box in legends if box for text in box.get_texts()]


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def test_every_picture_is_written_and_one_with_nothing_to_show_not_left_from_before(run_folders, tmp_path):
    paths = plots.save_pictures(load_runs([run_folders]), tmp_path / "all", prefix="some_")
    assert [path.name for path in paths.values()] == [f"some_{name}.png" for name in plots.PICTURES]
    for path in paths.values():
        pixels = imread(path)
        assert pixels.shape[1] >= 1000
        assert np.ptp(pixels[..., :3]) > 0.5
    shutil.rmtree(tmp_path / "all")
    (tmp_path / "energy.png").write_bytes(b"of an earlier report")
    paths = plots.save_pictures([load_run(run_folders / "cpu")], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "throughput.png", "mfu.png"}
    assert paths.keys() == {"loss", "throughput", "mfu"}


def test_the_loss_picture_draws_train_validation_and_unigram_entropy(run_folders):
    run = load_run(run_folders / "cpu")
    (axes,) = plots.plot_loss([run]).axes
    assert np.allclose(line(axes, "train").get_ydata(), run.series(names.TRAIN_LOSS))
    assert np.allclose(line(axes, "validation").get_xdata(), run.series(names.VALIDATION_LOSS).index)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[6.2, 6.2]]
    assert [text.get_text() for text in axes.texts] == ["unigram entropy 6.20"]


def test_several_runs_share_the_axes_with_a_legend_of_what_differs(run_folders):
    raw = load_run(run_folders / "gpu")
    (alone,) = plots.plot_loss([raw]).axes
    assert any(np.array_equal(each.get_ydata(), raw.series(names.TRAIN_LOSS)) for each in alone.lines)
    assert line(alone, "train, smoothed")
    figure = plots.plot_loss(load_runs([run_folders / "sweep"]))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens trained on", "loss (nats/token)")
    assert (legend(figure)[0], len(legend(figure))) == ("0 (lr=0.001, seed=1)", 5)


def test_long_names_give_way_to_the_settings_that_differ_and_else_keep_their_ends(tmp_path):
    date = "2026-01-31_12-00-00_trainer.log_every=5,optim.lr="
    runs = [load_run(write_run(tmp_path / f"{date}{rate}", learning_rate=rate, steps=8)) for rate in (0.001, 0.003)]
    assert legend(plots.plot_loss(runs)) == ["lr=0.001", "lr=0.003"]
    runs = [load_run(write_run(tmp_path / ("long-" * 12 + end), steps=8)) for end in ("first", "second")]
    shown = legend(plots.plot_loss(runs))
    assert [(text[0], text.rsplit("-", 1)[-1]) for text in shown] == [("…", "first"), ("…", "second")]


def test_absent_energy_is_said_with_its_reason(run_folders):
    figure = plots.plot_energy([load_run(run_folders / "cpu")])
    assert "energy was not measured: no NVML device and /sys/class/powercap is not readable" in texts(figure)
    assert not figure.axes[0].axison
    figure = plots.plot_energy(load_runs([run_folders / "sweep"]))
    assert "no energy of 3: no NVML device" in texts(figure)
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    assert not any(text.startswith("3 ") for text in legend(figure))
    run = load_run(run_folders / "gpu")
    total = plots.plot_energy([run]).axes[1]
    assert np.array_equal(line(total, "all-in").get_ydata(), run.series(names.ALL_IN_JOULES))


def test_without_a_peak_the_measured_one_is_shown_and_several_runs_are_compared_in_one_kind(run_folders):
    figure = plots.plot_mfu([load_run(run_folders / "cpu")])
    assert legend(figure) == ["MFU (C) of the measured matmul peak"]
    assert "no dense peak is known for A CPU, 2 cores; metrics.peak_flops sets one" in texts(figure)
    runs = load_runs([run_folders / "sweep"])
    assert plots.plot_mfu(runs).axes[0].get_ylabel() == "MFU (C) of the measured matmul peak"
    with_peak = [run for run in runs if len(run.series(names.MFU_CAUSAL))]
    assert plots.plot_mfu(with_peak).axes[0].get_ylabel() == "MFU (C)"


def test_a_run_that_logged_nothing_gives_words(run_folders):
    for draw in plots.PICTURES.values():
        assert "the run ended before" in texts(draw([load_run(run_folders / "dead")]))


def test_quantities_begin_at_zero(run_folders):
    run = load_run(run_folders / "gpu")
    for draw in (plots.plot_throughput, plots.plot_mfu, plots.plot_energy):
        for axes in draw([run]).axes:
            low, high = axes.get_ylim()
            assert low == 0
            assert high > max(max(line.get_ydata()) for line in axes.lines)

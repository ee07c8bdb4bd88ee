"""`litespark bench profile` for real: it starts itself in a fresh process and leaves a record and a picture."""

from litespark.benchmarks.step import begin as begin_module
from litespark.cli import main
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.step import RatesRecord
from tests.cli.tiny_run import tiny


def test_a_profile_from_the_command_line(tmp_path, monkeypatch, capsys):
    rates = RatesRecord(matmul_flops=1e11, attention_flops=1e10, copy_bytes=1e10)
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: rates)
    overrides = [each for each in tiny(tmp_path) if not each.startswith(("data.source", "data.vocab_size"))]
    words = ["data=synthetic", *overrides, "precision=fp32", "ops=reference"]
    assert main(["bench", "profile", *words, "--steps", "2", "--output", str(tmp_path / "results")]) == 0
    printed = capsys.readouterr().out
    (path,) = (tmp_path / "results").glob("*/*.json")
    assert path.with_suffix(".png").is_file()
    assert len(list(path.parent.iterdir())) == 2
    record = ProfileRecord.read(path)
    assert (record.variant, record.device_type, record.protocol.steps) == ("litespark", "cpu", 2)
    assert record.tokens == 2 * 4 * 32
    assert record.provenance.command[:3] == ["litespark", "bench", "profile"]
    assert record.provenance.command[-2:] == ["--steps", "2"]
    # the machine's folders are not told
    assert str(tmp_path) not in path.read_text()
    for each in record.classes:
        assert f"\n{each.kernel_class} " in printed


def test_what_cannot_be_profiled_is_said_in_one_line(capsys):
    assert main(["bench", "profile", "data=synthetic", "trainer.accelerator=cpu", "--variant", "train.py"]) == 1
    assert "trainer.profile=true" in capsys.readouterr().err

"""Perplexity against length out of records and logs."""

import json

import pytest

from report import log_lines
from tnn.lm import extrapolation


def test_sweep_of_the_newest_record(tmp_path):
    for date, value in (("2026-01-01T00:00:00Z", 1.0), ("2026-01-02T00:00:00Z", 30.0)):
        steps = [{"step": "main", "final": {}},
                 *({"step": f"length-{n}", "final": {"test_ppl": value + n}} for n in (512, 64))]
        (tmp_path / f"{date[:10]}.json").write_text(json.dumps({"date": date, "steps": steps}))
    points = extrapolation.sweep(tmp_path)
    assert points == [(64, 94.0), (512, 542.0)]
    extrapolation.draw(points, 64, tmp_path / "figures/plot.png")
    assert (tmp_path / "figures/plot.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="no record"):
        extrapolation.sweep(tmp_path / "figures")


def test_validation_within_an_epoch_is_a_fraction_of_it():
    curve, _ = log_lines.parse_log(
        "train_inner | epoch 001:     10 / 200 loss=15.1, ppl=34278.2, num_updates=10\n"
        "epoch 001 | valid on 'valid' subset | loss 8.7 | ppl 434.2 | wps 4 | num_updates 50\n"
        "epoch 001 | valid on 'valid' subset | loss 8.2 | ppl 313.3 | num_updates 100 | best 8\n"
        "epoch 002 | valid on 'valid' subset | loss 8.1 | nll_loss 0.1 | accuracy 87.2 | wps 1\n")
    assert [point["epoch"] for point in curve] == [0.25, 0.5, 2]
    assert curve[1]["valid_ppl"] == 313.3
    assert curve[2]["valid_acc"] == 87.2

"""Adapter of golden/sparse_seq for geometry.json: sizes and places of the blocks, no numbers."""

import json
import warnings

import pytest
import torch

from sparse_seq.embedding import reduction_factor, sparse_geometry
from sparse_seq.language_modeling.model import LanguageModel
from sparse_seq.rnn import compose, dense_parameters


def geometry(path, folder, monkeypatch, part):
    content = json.loads(path.read_text())
    for entry in (content[part].items() if isinstance(content[part], dict) else content[part]):
        CHECKS[part](entry)


def check_sparse_geometry(entry):
    starts, widths, density = sparse_geometry(entry["vocab"], entry["dim"], entry["density"],
                                              entry["blocks"])
    assert (starts, widths) == (entry["start_ids"], entry["block_widths"]), entry
    assert density == pytest.approx(entry["empirical_density"], abs=1e-12)


def check_reduction_factor(entry):
    assert reduction_factor(entry["density"], entry["blocks"]) == pytest.approx(entry["alpha"],
                                                                                abs=1e-12)


def composition(entry):
    names = ("blocks", "density", "reduce_in", "reduce_out")
    return compose(entry["i"], entry["h"], **{n: entry[n] for n in names if n in entry})


def check_sparse_lstm(entry):
    found = composition(entry)
    assert found.blocks == entry["k"]
    assert found.density == pytest.approx(entry["delta"], abs=1e-12)
    assert [list(r) for r in found.inputs] == entry["input_indices"]
    assert [list(r) for r in found.outputs] == entry["output_indices"]
    assert found.parameters == entry["n_params"]
    assert found.parameters / dense_parameters(entry["i"], entry["h"]) == pytest.approx(
        entry["ratio_to_dense"], abs=1e-12)


def check_refused(entry):
    with pytest.raises(ValueError, match=r"reduce_in|density"):
        composition(entry)


PUBLISHED = {  # the flags of the paper's runs
    "dense_awd": {}, "overfit_dense": {},
    "sparse_1725": {"sparse_mode": "sparse_hidden", "sparse_fract": 0.66666, "nhid": 1725},
    "overfit_dense_reduced": {"emsize": 200, "nhid": 575},
    "overfit_sparse1": {"emsize": 200, "sparse_mode": "sparse_hidden", "sparse_fract": 0.5},
    "overfit_sparse2": {"emblocks": 10, "emdensity": 0.5, "sparse_mode": "sparse_all",
                        "sparse_fract": 0.5},
}


def check_published(entry):
    name, facts = entry
    with torch.device("meta"), warnings.catch_warnings():  # sizes only
        warnings.simplefilter("ignore")
        model = LanguageModel(10_000, **PUBLISHED[name])
    assert model.parameter_counts() == {n: facts[n] for n in ("encoder", "rnns", "total")}
    assert model.encoder.start_ids == facts["emb"]["start_ids"]
    assert model.encoder.block_widths == facts["emb"]["widths"]
    assert model.encoder.density == pytest.approx(facts["emb"]["density"], abs=1e-12)
    for layer, wanted in zip(model.rnns, facts.get("layers", []), strict="layers" in facts):
        found = layer.composition
        assert (found.blocks, found.parameters) == (wanted["k"], wanted["params"])
        assert found.density == pytest.approx(wanted["delta"], abs=1e-12)
        assert [list(r) for r in found.inputs] == wanted["input_indices"]
        assert [list(r) for r in found.outputs] == wanted["output_indices"]
        assert layer.info_dict()["sparseness"] == pytest.approx(wanted["density"], abs=1e-12)


CHECKS = {"sparse_geometry": check_sparse_geometry, "reduction_factor": check_reduction_factor,
          "sparse_lstm": check_sparse_lstm, "sparse_lstm_errors": check_refused,
          "published_models": check_published}

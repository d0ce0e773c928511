"""Models fitted on one's own sections: do they learn, is it reproducible, is the user's object left alone?"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import storm
from storm._bridge import read_spots
from storm._inference.tokens import st_tokens
from storm.data.windows import make_windows
from storm.pretraining.adaptation import relative_to_mean
from storm.pretraining.sections import TrainingSection

QUICK = {"epochs": 16, "lr": 1e-2, "batch_size": 32}


@pytest.fixture(scope="module")
def adapted(toy_once, tiny_model):
    return storm.tl.adapt(toy_once, model=tiny_model, **QUICK)


def test_learns_what_it_was_not_shown(adapted, toy_once, tiny_model):
    card = adapted.card
    first, best = card["losses"][0], card["losses"][card["best_epoch"]]
    for name in ("he", "st"):
        assert best[name] < 0.95 * first[name]
        assert best[f"val_{name}"] < first[f"val_{name}"]
        assert card["held_out_loss"][name] < 0.97 * card["held_out_loss_of_the_mean"][name]
    assert card["adapted_from"] == {"name": tiny_model.name, "sha256": tiny_model.sha256}
    assert card["expression"].startswith("refitted")  # a random encoder is not kept
    assert card["sections"] == 1
    assert card["spots"] == 150
    assert adapted.trained
    assert not tiny_model.trained


def test_same_seed_same_weights(toy, tiny_model):
    table = toy.tables["table"]
    first = storm.tl.adapt(table, model=tiny_model, epochs=2)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002  numpy's global generator is what must be left alone
    drawn = np.random.get_state()[1].copy()  # noqa: NPY002
    again = storm.tl.adapt(table, model=tiny_model, epochs=2)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert (np.random.get_state()[1] == drawn).all()  # noqa: NPY002
    assert again.sha256 == first.sha256
    assert again.card["losses"] == first.card["losses"]
    assert storm.tl.adapt(table, model=tiny_model, epochs=2, seed=1).sha256 != first.sha256


def test_saved_and_loaded_it_says_the_same(adapted, toy, tmp_path):
    adapted.save(tmp_path / "mine")
    loaded = storm.load_model(tmp_path / "mine")
    assert loaded.sha256 == adapted.sha256
    assert loaded.card == adapted.card
    storm.tl.encode_tiles(toy, "stain-texture")
    for readout in ("window", "reconstruction"):
        one = storm.tl.embed(toy, model=adapted, readout=readout, copy=True).tables["table"].obsm["X_storm"]
        two = storm.tl.embed(toy, model=loaded, readout=readout, copy=True).tables["table"].obsm["X_storm"]
        np.testing.assert_array_equal(one, two)


def test_the_object_and_the_model_are_left_alone(toy, tiny_model):
    table = toy.tables["table"]
    before, sha = table.X.copy(), tiny_model.sha256
    state = {name: value.clone() for name, value in tiny_model.network.state_dict().items()}
    storm.tl.adapt(toy, model=tiny_model, epochs=1)
    assert (table.X != before).nnz == 0
    assert not {"X_storm", "X_stain-texture"} & set(table.obsm)
    assert "storm" not in table.uns
    assert list(toy.tables) == ["table"]
    assert tiny_model.sha256 == sha
    assert all(torch.equal(state[name], value) for name, value in tiny_model.network.state_dict().items())
    assert not any(p.requires_grad for p in tiny_model.network.parameters())


def test_tiles_that_are_there_are_used(toy, tiny_model, monkeypatch):
    storm.tl.encode_tiles(toy, "stain-texture")

    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr("storm._inference.tile_cache.encode_tiles", never)
    storm.tl.adapt(toy, model=tiny_model, epochs=1)


def test_two_sections_of_different_panels(toy, tiny_model, tmp_path):
    table = toy.tables["table"]
    one, two = table[:, :200].copy(), table[:, 100:].copy()
    common = table.var_names[100:200]
    with pytest.warns(UserWarning, match="the sections measure different genes: 100 common genes hold"):
        model = storm.tl.adapt([one, two], model=tiny_model, epochs=2)
    assert model.card["sections"] == 2
    assert model.card["library"] == "100 common genes"
    assert model.expression.library.genes == tuple(sorted(name.upper() for name in common))
    model.save(tmp_path / "model")
    model = storm.load_model(tmp_path / "model")
    assert len(model.expression.library.genes) == 100
    few = table[:, 190:].copy()
    with pytest.raises(ValueError, match="have 10 genes in common, too few to compare"):
        storm.tl.adapt([one, few], model=tiny_model)
    assert set(model.vocabulary.symbols) == {name.upper() for name in table.var_names}
    for section in (one, two):
        storm.tl.embed(section, model=model)
        assert np.isfinite(section.obsm["X_storm"]).all()


def test_from_scratch_on_genes_that_no_model_knows(toy):
    table = toy.tables["table"].copy()
    table.var_names = [f"GENE_{i}" for i in range(table.n_vars)]
    with pytest.raises(ValueError, match="expression='refit'"):
        storm.tl.adapt(table, expression="keep")
    model = storm.tl.adapt(table, model=None, epochs=2, n_genes=120)
    assert model.card["adapted_from"] is None
    assert len(model.vocabulary) == 120
    storm.tl.embed(table, model=model)
    assert np.isfinite(table.obsm["X_storm"]).all()


def test_a_packaged_model_takes_on_other_genes_and_keeps_its_own(toy):
    table = toy.tables["table"].copy()
    packaged = storm.load_model()
    kept = storm.tl.adapt(table, epochs=1)
    assert kept.vocabulary == packaged.vocabulary
    assert kept.head is None
    assert kept.card["expression"] == "kept"
    table.var_names = [f"GENE_{i}" for i in range(table.n_vars)]
    fitted = storm.tl.adapt(table, epochs=1)
    assert "GENE_0" in fitted.vocabulary.symbols
    # The layers that see no expression are the packaged model's, moved by one epoch.
    old, new = (model.network.state_dict()["project.he.weight"] for model in (packaged, fitted))
    torch.testing.assert_close(old, new)


@pytest.mark.parametrize("modality", ["he", "st"])
def test_one_modality(toy, tiny_model, modality):
    model = storm.tl.adapt(toy, model=tiny_model, modality=modality, epochs=2, held_out=0)
    assert {"he", "st"} & set(model.card["losses"][0]) == {modality}
    assert "held_out_loss" not in model.card
    storm.tl.embed(toy, model=model, modality=modality)
    assert np.isfinite(toy.tables["table"].obsm["X_storm"]).all()


def test_an_image_without_a_table(toy):
    del toy.tables["table"]
    model = storm.tl.adapt(toy, model=None, epochs=1, field_um=150)
    assert not toy.tables
    assert "storm_tiles" not in toy.shapes
    assert model.config.n_genes == 0
    assert set(model.card["losses"][0]) >= {"he", "val_he"}


def test_errors_say_what_to_do(toy, tiny_model):
    table = toy.tables["table"]
    with pytest.raises(ValueError, match="too few"):
        storm.tl.adapt(table[:40].copy(), model=tiny_model)
    empty = table.copy()
    empty.X = csr_matrix(empty.X.multiply((np.arange(table.n_obs) < 30)[:, None]))
    with pytest.raises(ValueError, match="30 spots with a place and with counts"):
        storm.tl.adapt(empty, model=tiny_model)
    with pytest.raises(ValueError, match="neither an H&E image nor counts"):
        storm.tl.adapt(table[:, :0].copy(), model=tiny_model)
    with pytest.raises(ValueError, match="empty list"):
        storm.tl.adapt([], model=tiny_model)
    other = table.copy()
    other.var_names = [f"X{i}" for i in range(table.n_vars)]
    with pytest.raises(ValueError, match="no gene in common"):
        storm.tl.adapt([table, other], model=tiny_model)
    with pytest.raises(ValueError, match="epochs=0"):
        storm.tl.adapt(toy, model=tiny_model, epochs=0)
    with pytest.raises(ValueError, match="held_out"):
        storm.tl.adapt(toy, model=tiny_model, held_out=0.9)
    with pytest.raises(ValueError, match=r"lr=1e\+30 is above 1"):
        storm.tl.adapt(toy, model=tiny_model, lr=1e30)
    with pytest.raises(ValueError, match="n_genes=0 must be a whole number of at least 1"):
        storm.tl.adapt(toy, model=tiny_model, n_genes=0)
    with pytest.raises(ValueError, match=r"batch_size=2\.5 must be a whole number"):
        storm.tl.adapt(toy, model=tiny_model, batch_size=2.5)
    with pytest.raises(ValueError, match="seed='a' must be a whole number"):
        storm.tl.adapt(toy, model=tiny_model, seed="a")
    with pytest.raises(ValueError, match="expression="):
        storm.tl.adapt(toy, model=tiny_model, expression="maybe")
    with pytest.raises(TypeError, match="SpatialData"):
        storm.tl.adapt("section.zarr", model=tiny_model)


def test_adapt_writes_a_model_that_embeds(tmp_path, capsys):
    """Two stores, one model; a folder that is there is not replaced."""
    from storm.cli import main

    stores = [tmp_path / f"{name}.zarr" for name in "ab"]
    for seed, path in enumerate(stores):
        storm.datasets.toy("visium", n=60, seed=seed, path=path)
    out = tmp_path / "mine"
    given = ["adapt", *map(str, stores), "--out", str(out), "--modality", "st", "--epochs", "1", "--quiet"]
    assert main([*given, "--from-scratch"]) == 0
    assert "adapted on 2 section(s), 120 spots, 1 epochs" in capsys.readouterr().out
    assert storm.load_model(out).card["sections"] == 2
    assert main(["embed", str(stores[0]), "--model", str(out), "--modality", "st", "--quiet"]) == 0
    capsys.readouterr()
    assert main(given) == 2
    assert "exists" in capsys.readouterr().err


def test_what_tells_sections_apart_goes_or_stays(toy, tiny_model):
    """The second section has five times the counts of a third of the genes."""
    one = toy.tables["table"]
    two = one.copy()
    two.X = csr_matrix(two.X.multiply(np.where(np.arange(two.n_vars) % 3, 1, 5)))
    apart = {}
    for batch in ("section", "none"):
        model = storm.tl.adapt([one, two], model=tiny_model, batch=batch, modality="st", epochs=1, held_out=0)
        assert model.settings["standardise"] == {"section": "section", "none": "training"}[batch]
        means = [st_tokens(read_spots(section), model)[0].mean(axis=0) for section in (one, two)]
        apart[batch] = np.linalg.norm(means[0] - means[1])
        storm.tl.embed(one, model=model)
        assert np.isfinite(one.obsm["X_storm"]).all()
    assert apart["section"] < 0.3 < 3 * apart["section"] < apart["none"]
    with pytest.raises(ValueError, match="batch='slide'"):
        storm.tl.adapt(one, model=tiny_model, batch="slide")


def test_targets_are_relative_to_their_section_or_to_all():
    windows = make_windows(np.array([[0.0, 0], [1, 0], [0, 1]]))
    measured = [np.array([True, True, False]), np.array([True, False, True])]
    values = [np.array([[1.0, 2, 0], [3, 4, 0], [9, 9, 0]]), np.array([[7.0, 0, 1], [9, 0, 3], [9, 0, 9]])]
    st = np.array([[0.0], [0.0], [np.nan]])  # the third spot has no counts and no say
    sections = [
        TrainingSection("", windows, None, st, v.astype(np.float32), m) for v, m in zip(values, measured, strict=True)
    ]
    own = [section.expression for section in relative_to_mean(sections, by_section=True)]
    np.testing.assert_allclose(own[0][:2], [[-1, -1, 0], [1, 1, 0]])
    np.testing.assert_allclose(own[1][:2], [[-1, 0, -1], [1, 0, 1]])
    together = [section.expression for section in relative_to_mean(sections, by_section=False)]
    np.testing.assert_allclose(together[0][:2], [[-4, -1, 0], [-2, 1, 0]])
    np.testing.assert_allclose(together[1][:2], [[2, 0, -1], [4, 0, 1]])


def test_sections_of_one_table_are_those_of_a_list(tiny_model) -> None:
    parts = {}
    for name, seed in (("A", 0), ("B", 1)):
        parts[name] = storm.datasets.toy("visium", n=80, seed=seed).tables["table"].copy()
        del parts[name].uns["spatialdata_attrs"]
    table = ad.concat(parts, label="library", index_unique="-")
    options = {"model": tiny_model, "epochs": 1, "modality": "st"}
    whole, several = (
        storm.tl.adapt(table, library_key="library", **options),
        storm.tl.adapt([*parts.values()], **options),
    )
    assert whole.card["sections"] == 2
    for one, other in zip(whole.network.parameters(), several.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)

"""``storm.tl.adjacent_domains`` and ``storm.get.adjacent_domains``."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import storm

LABELS = list("0011001122112222")
CENTRES = np.array([(x, y) for y in range(4) for x in range(4)], dtype=float) * 100


@pytest.fixture
def section() -> ad.AnnData:
    adata = ad.AnnData(np.ones((16, 2), np.float32), obsm={"spatial": CENTRES.copy()})
    adata.obs["storm_domain"] = pd.Categorical(LABELS)
    return adata


def test_golden_values(section):
    assert storm.tl.adjacent_domains(section) is None
    frame = storm.get.adjacent_domains(section).set_index(["i", "j"])
    assert frame.loc[("1", "2"), "edges"] == 3
    assert frame.loc[("1", "2"), "share"] == 0.6
    assert frame.loc[("1", "2"), "z"] == pytest.approx(-2.2691321555, abs=1e-8)
    assert frame.loc[("1", "2"), "log2_enrichment"] == pytest.approx(np.log2(0.6 / 0.6))
    assert frame.loc[("0", "0"), "z"] == pytest.approx(3.235295373, abs=1e-8)
    assert frame.index[frame["adjacent"]].tolist() == [("1", "2"), ("2", "1")]
    facts = section.uns["storm"]["storm_domain_adjacency"]
    assert facts["n_edges"] == 24
    assert facts["n_sections"] == 1


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_result_survives_storage(section, tmp_path, suffix):
    section.obs.loc[section.obs_names[:4], "storm_domain"] = np.nan
    storm.tl.adjacent_domains(section, key_added="touching")
    path = tmp_path / f"section{suffix}"
    getattr(section, "write_h5ad" if suffix == ".h5ad" else "write_zarr")(path)
    back = (ad.read_h5ad if suffix == ".h5ad" else ad.read_zarr)(path)
    one, other = (storm.get.adjacent_domains(adata, key_added="touching") for adata in (section, back))
    pd.testing.assert_frame_equal(one, other, check_dtype=False)
    assert other["adjacent"].dtype == bool


def test_sections_on_top_of_each_other_do_not_touch(section):
    other = section.copy()
    other.obs["storm_domain"] = pd.Categorical([str(int(label) + 3) for label in LABELS])
    both = ad.concat({"A": section, "B": other}, label="slide", index_unique="-")
    both.uns["spatial"] = {"A": {}, "B": {}}
    with pytest.raises(ValueError, match="slide"):
        storm.tl.adjacent_domains(both)
    storm.tl.adjacent_domains(both, library_key="slide")
    frame = storm.get.adjacent_domains(both).set_index(["i", "j"])
    storm.tl.adjacent_domains(section)
    alone = storm.get.adjacent_domains(section).set_index(["i", "j"])
    columns = ["edges", "share", "log2_enrichment", "z"]
    pd.testing.assert_frame_equal(frame.loc[alone.index, columns], alone[columns])
    assert frame.loc[("0", "3"), "edges"] == 0
    both.obs["slide"] = both.obs["slide"].astype(object)
    both.obs.loc[both.obs_names[2], "slide"] = None
    with pytest.raises(ValueError, match="1 of 32 rows have no value"):
        storm.tl.adjacent_domains(both, library_key="slide")


def test_regions_are_sections(toy):
    """A table of two elements: each is a section, with places of its own."""
    import spatialdata

    table = toy.tables["table"]
    for name in [name for name in table.obsm if isinstance(table.obsm[name], pd.DataFrame)]:
        del table.obsm[name]  # spatialdata renames rows when it concatenates, and frames keep the old names
    table.obs["storm_domain"] = pd.Categorical((np.arange(table.n_obs) % 3).astype(str))
    storm.tl.adjacent_domains(toy)
    one = storm.get.adjacent_domains(toy)
    joined = spatialdata.concatenate({"A": toy, "B": spatialdata.deepcopy(toy)}, concatenate_tables=True)
    storm.tl.adjacent_domains(joined)
    two = storm.get.adjacent_domains(joined)
    np.testing.assert_array_equal(two["edges"], 2 * one["edges"])
    assert joined.tables["table"].uns["storm"]["storm_domain_adjacency"]["n_sections"] == 2


def test_whole_numbers_are_labels_and_copies_are_changed_alone(section):
    section.obs["mine"] = [3.0] * 8 + [1.0] * 7 + [np.nan]
    changed = storm.tl.adjacent_domains(section, "mine", copy=True)
    assert storm.get.adjacent_domains(changed, "mine")["i"].unique().tolist() == ["1", "3"]
    assert "storm" not in section.uns


def test_bad_input(section):
    with pytest.raises(KeyError, match=r"storm\.tl\.domains writes it"):
        storm.tl.adjacent_domains(section, "nothing")
    with pytest.raises(KeyError, match=r"run storm\.tl\.adjacent_domains first"):
        storm.get.adjacent_domains(section)
    section.obs["score"] = np.linspace(0, 1, 16)
    with pytest.raises(ValueError, match="measurements, not domains"):
        storm.tl.adjacent_domains(section, "score")
    section.obs["none"] = pd.Categorical([None] * 16)
    with pytest.raises(ValueError, match="holds 0 domain"):
        storm.tl.adjacent_domains(section, "none")
    with pytest.raises(ValueError, match="min_share=2"):
        storm.tl.adjacent_domains(section, min_share=2)
    with pytest.raises(KeyError, match="library_key='slide'"):
        storm.tl.adjacent_domains(section, library_key="slide")
    assert "storm" not in section.uns


def test_one_domain_has_no_neighbours(section):
    section.obs["storm_domain"] = pd.Categorical(["0"] * 16)
    storm.tl.adjacent_domains(section)
    frame = storm.get.adjacent_domains(section)
    assert frame["adjacent"].tolist() == [False]
    assert frame["edges"].tolist() == [24]

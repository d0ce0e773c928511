"""``storm.pp.check`` of several sections: one report, and what differs between them."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import spatialdata

import storm
from section_images import pixels_of, with_image
from storm.data.kind import kind_of
from storm.pp._report import CheckReport, StudyReport

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture(scope="module")
def toys_once() -> list[spatialdata.SpatialData]:
    return [storm.datasets.toy("visium", n=n, seed=n) for n in (100, 80)]


@pytest.fixture
def toys(toys_once) -> list[spatialdata.SpatialData]:
    return [spatialdata.deepcopy(one) for one in toys_once]


@pytest.fixture
def check(tiny_model):
    def run(data, **options):
        return storm.pp.check(data, **{"model": tiny_model, "estimate": False} | options)

    return run


def test_sections_that_are_alike(toys, check) -> None:
    report = check(toys)
    assert isinstance(report, StudyReport)
    assert list(report.table.index) == ["data[0]", "data[1]", "platforms", "genes", "images", "stains"]
    assert set(report.table["verdict"]) == {"ok"}
    assert repr(report).startswith("2 sections: 2 ok; 4 comparisons")
    assert "100 spots; a hexagonal lattice, 100 µm; image at 1 µm/px; median" in report["data[0]"].value
    # each section is checked as it is alone
    for name, one in zip(("data[0]", "data[1]"), toys, strict=True):
        alone = check(one)
        assert isinstance(alone, CheckReport)
        assert not isinstance(alone, StudyReport)
        assert report.sections[name].table.equals(alone.table)
    assert report._repr_html_().count("<tr>") == 7


@pytest.mark.parametrize("form", ["regions", "library_key"])
def test_sections_of_one_table(toys, check, form: str) -> None:
    if form == "regions":
        data = spatialdata.concatenate(dict(zip("AB", toys, strict=True)), concatenate_tables=True)
        report = check(data)
        names = ["spots-A", "spots-B"]
        assert report["images"].verdict == "ok"
    else:
        data = ad.concat(dict(zip("AB", [one["table"] for one in toys], strict=True)), label="sample", index_unique="-")
        data = data[np.random.default_rng(0).permutation(data.n_obs)].copy()
        report = check(data, library_key="sample")
        names = ["A", "B"]
        assert "images" not in report
    assert list(report.sections) == names
    for name, one in zip(names, toys, strict=True):
        alone = check(one if form == "regions" else one["table"])
        numbers = [name for name in alone.table.index if name not in ("scale", "chunks")]
        assert report.sections[name].table.loc[numbers, "verdict"].equals(alone.table.loc[numbers, "verdict"])
        assert report.sections[name]["counts"].value == alone["counts"].value
        assert report.sections[name]["pitch"].facts == pytest.approx(alone["pitch"].facts)


def test_what_is_wrong_with_a_section_is_in_its_row(toys, check) -> None:
    toys[1] = with_image(toys[1], pixels_of(toys[1])[:1].repeat(3, axis=0))
    report = check(toys)
    assert report["data[0]"].verdict == "ok"
    assert report["data[1]"].verdict == "fail"
    assert report["data[1]"].explanation.startswith("kind fails: gray")
    assert not report.ok
    assert report.sections["data[1]"]["kind"].verdict == "fail"


def test_platforms(toys, check) -> None:
    cells = storm.datasets.toy("xenium", n=300, seed=3)
    report = check([toys[0], cells])
    assert report["platforms"].verdict == "warn"
    assert "a hexagonal lattice: 'data[0]'; no lattice (cells): 'data[1]'" in report["platforms"].value
    table = toys[1]["table"].copy()
    table.obsm["spatial"] = table.obsm["spatial"] * 2
    row = check([toys[0]["table"], table], um_per_px=1.0)["platforms"]
    assert row.verdict == "warn"
    assert row.facts["pitch_most"] == pytest.approx(2 * row.facts["pitch_least"])
    assert "'data[1]'" in row.explanation


def test_a_section_of_one_spot_has_no_platform(toys, check) -> None:
    table = toys[0]["table"].copy()
    table.obs["sample"] = ["one", *["rest"] * (table.n_obs - 1)]
    report = check(table, library_key="sample")
    assert report["one"].value.startswith("1 spots")
    assert report["platforms"].verdict == "ok"


def test_scales_that_are_known_for_some(toys, check) -> None:
    table = toys[1]["table"].copy()
    table.uns.pop("spatial", None)
    report = check([toys[0], table])
    assert report["scales"].verdict == "warn"
    assert "'data[1]'" in report["scales"].value
    assert "um_per_px=" in report["scales"].explanation
    # and an image that one of them lacks
    assert report["images"].verdict == "warn"
    assert report["images"].value == "none was read of 'data[1]'"


def with_genes(sdata, keep) -> spatialdata.SpatialData:
    table = sdata["table"][:, keep].copy()
    return spatialdata.SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), tables={"table": table})


def test_genes(toys, check) -> None:
    n = toys[0]["table"].n_vars
    half = np.arange(n) % 2 == 0
    row = check([toys[0], with_genes(toys[1], half)])["genes"]
    counts = np.asarray(toys[0]["table"].X.sum(axis=0)).ravel()
    assert row.verdict == "warn"
    assert row.facts["common"] == half.sum()
    assert (row.facts["least"], row.facts["most"]) == (half.sum(), n)
    assert row.facts["share_least"] == pytest.approx(counts[half].sum() / counts.sum())
    assert row.facts["share_most"] == 1
    assert "'data[0]' loses the most" in row.explanation
    rare = np.ones(n, dtype=bool)
    rare[np.argsort(counts)[:3]] = False
    assert check([toys[0], with_genes(toys[1], rare)])["genes"].verdict == "ok"
    row = check([with_genes(toys[0], half), with_genes(toys[1], ~half)])["genes"]
    assert row.verdict == "fail"
    assert "in common, too few to compare their counts" in row.explanation


def test_genes_by_symbol_and_by_ensembl_id(toys) -> None:
    model = storm.load_model("storm-mini")
    vocabulary = model.expression.vocabulary
    ids = dict(zip(vocabulary.symbols, vocabulary.ensembl, strict=False))
    toys[1]["table"].var_names = [ids.get(name, name) for name in toys[1]["table"].var_names]
    assert any(name.startswith("ENSG") for name in toys[1]["table"].var_names)
    row = storm.pp.check(toys, model=model, estimate=False)["genes"]
    assert row.verdict == "ok"
    assert row.value == f"all measure the same {toys[0]['table'].n_vars}"


def test_stains(toys, check) -> None:
    """Other colours of the same tissue are told, by how far; so is a paler stain."""
    pixels = pixels_of(toys[1]).astype(np.float32)
    row = check(toys)["stains"]
    assert row.verdict == "ok"
    assert row.facts["degrees"] < 2
    paler = with_image(toys[1], (255 - 0.5 * (255 - pixels)).round().astype(np.uint8))
    row = check([toys[0], paler])["stains"]
    assert row.verdict == "warn"
    assert row.facts["density_ratio"] > 1.5
    density = -np.log10((pixels + 1) / 256)
    other = np.stack([density[0], density[1], density[2] + 0.5 * density[0]])
    bluer = with_image(toys[1], np.clip(256 * 10**-other - 1, 0, 255).round().astype(np.uint8))
    row = check([toys[0], bluer])["stains"]
    assert row.verdict == "warn"
    assert row.facts["degrees"] > 4
    assert "'data[0]' and 'data[1]'" in row.explanation


def test_the_stain_is_that_of_the_tissue() -> None:
    tissue = np.round(256 * 10 ** -np.array([0.3, 0.5, 0.2]) - 1)
    pixels = np.full((50, 50, 3), 245.0)
    pixels[:10] = tissue
    np.testing.assert_allclose(kind_of(pixels.astype(np.uint8)).stain, [0.3, 0.5, 0.2], atol=0.01)
    assert np.isnan(kind_of(np.full((5, 5, 3), 245, np.uint8)).stain).all()


def test_resolutions(toys, check) -> None:
    pixels = pixels_of(toys[1])
    side = pixels.shape[1] // 5
    small = pixels[:, : 5 * side, : 5 * side].reshape(3, side, 5, side, 5).mean(axis=(2, 4)).astype(np.uint8)
    row = check([toys[0], with_image(toys[1], small, um_per_px=5.0)])["images"]
    assert row.verdict == "warn"
    assert row.value == "1 to 5 µm/px"
    assert "'data[1]' is 5 times coarser than that of 'data[0]'" in row.explanation


def test_time_and_memory_of_all(toys, tiny_model) -> None:
    report = storm.pp.check(toys, model=tiny_model)
    seconds = [one["time"].facts["seconds"] for one in report.sections.values()]
    assert report["time"].facts["seconds"] == pytest.approx(sum(seconds))
    sizes = [one["memory"].facts["bytes"] for one in report.sections.values()]
    assert report["memory"].facts["bytes"] == max(sizes)


def test_the_report_is_stored_if_asked_for(toys, check, tmp_path: Path) -> None:
    report = check(toys, store=True)
    for one in toys:
        stored = one["table"].uns["storm"]["check"]
        assert stored["compared"]["genes"]["common"] == report["genes"].facts["common"]
        assert set(stored["sections"]) == {"data[0]", "data[1]"}
    toys[0].write(tmp_path / "a.zarr")
    again = spatialdata.read_zarr(tmp_path / "a.zarr")["table"].uns["storm"]["check"]
    assert again["sections"]["data[1]"]["pitch"]["pitch"] == pytest.approx(100)
    assert "check" not in check([toys[0]["table"].copy(), toys[1]]).summary()


def test_bad_calls(toys, check) -> None:
    with pytest.raises(ValueError, match=r"data\[0\] and data\[1\] are the same object"):
        check([toys[0], toys[0]])
    with pytest.raises(KeyError, match="library_key='sample' is not in obs"):
        check(toys[0]["table"], library_key="sample")
    with pytest.raises(ValueError, match="empty list"):
        check([])


@pytest.mark.slow
def test_real_sections(shared_data: Path) -> None:
    """Two neighbouring sections of one tumour, and one of another patient of the same laboratory."""
    folder = shared_data / "her2st"
    sections = []
    for name in ("C2", "C3", "B4"):
        (picture,) = (folder / "ST-imgs" / name[0] / name).glob("*.jpg")
        counts, spots = folder / "ST-cnts" / f"{name}.tsv.gz", folder / "ST-spotfiles" / f"{name}_selection.tsv"
        sections.append(storm.io.st(counts, spots, picture))
    report = storm.pp.check(sections, estimate=False)
    assert report["platforms"].verdict == "ok"
    assert report["genes"].verdict == "ok"
    assert report["stains"].verdict == "ok"
    assert report["stains"].facts["degrees"] < 4

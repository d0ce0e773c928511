"""Several images of one section: the finest of reductions of one picture is taken, anything else is a question."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData, concatenate, read_zarr
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

import storm
from planted_section import grid_px, table_for
from storm._bridge import read_spots
from storm._bridge.selection import select

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

HIRES, LOWRES = 0.5, 0.125  # pixels per pixel of the full-resolution image
FACTORS = {"spot_diameter_fullres": 130.0, "fiducial_diameter_fullres": 210.0}  # 0.5 µm per pixel


def scene(*, size: tuple[int, int] = (240, 320), seed: int = 0) -> np.ndarray:
    """A tissue of coloured patches, uint8 (3, y, x)."""
    noise = np.random.default_rng(seed).normal(size=(3, *size))
    smooth = np.stack([gaussian_filter(channel, 12) for channel in noise])
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def reduced(picture: np.ndarray, step: int) -> np.ndarray:
    c, y, x = picture.shape
    return picture.reshape(c, y // step, step, x // step, step).mean(axis=(2, 4)).round().astype(np.uint8)


def element(pixels: np.ndarray, **transformations):
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=transformations)


def as_spatialdata_io_reads(*, hires=None, lowres=None, **more) -> SpatialData:
    """Each reduced picture in a system of its own, which it shares with the spots alone."""
    picture = scene()
    images = {
        "A_hires_image": element(reduced(picture, 2) if hires is None else hires, A_downscaled_hires=Identity()),
        "A_lowres_image": element(reduced(picture, 8) if lowres is None else lowres, A_downscaled_lowres=Identity()),
    }
    spots = ShapesModel.parse(
        grid_px(),
        geometry=0,
        radius=65.0,
        index=np.arange(48),
        transformations={
            "A": Identity(),
            "A_downscaled_hires": Scale([HIRES, HIRES], axes=("x", "y")),
            "A_downscaled_lowres": Scale([LOWRES, LOWRES], axes=("x", "y")),
        },
    )
    table = table_for(np.arange(48), region="A", spatial={"A": {"scalefactors": FACTORS}})
    table.obsm["spatial"] = grid_px()
    return SpatialData(images=images | more, shapes={"A": spots}, tables={"table": table})


def test_the_finest_of_two_reduced_pictures(caplog: pytest.LogCaptureFixture) -> None:
    sdata = as_spatialdata_io_reads()
    with caplog.at_level(logging.INFO, logger="storm"):
        spots = read_spots(sdata)
    assert spots.scale.um_per_px == pytest.approx(1.0)  # of the picture that is half as fine as 0.5 µm per pixel
    np.testing.assert_allclose(spots.centres, grid_px() * 0.5)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "the finest, 'A_hires_image', is used" in messages[0]
    # the pixels under the spots are those of the full-resolution picture
    colour = spots.patches.read(spots.centres, field_um=4.0, out_px=4)[:, 1:3, 1:3].mean(axis=(1, 2))
    x, y = grid_px().astype(int).T
    assert np.abs(colour - scene()[:, y, x].T).mean() < 6


def test_the_full_resolution_image_is_finer_still(tmp_path) -> None:
    full = Image2DModel.parse(scene(), dims=("c", "y", "x"), scale_factors=[2], transformations={"A": Identity()})
    sdata = as_spatialdata_io_reads(A_full_image=full)
    assert select(sdata).image_key == "A_full_image"
    sdata.write(tmp_path / "a.zarr")
    assert select(read_zarr(tmp_path / "a.zarr")).image_key == "A_full_image"


def test_a_key_of_the_users_comes_first(caplog: pytest.LogCaptureFixture) -> None:
    sdata = as_spatialdata_io_reads()
    assert read_spots(sdata, image_key="A_lowres_image").scale.um_per_px == pytest.approx(4.0)
    assert not caplog.records


def test_every_verb_that_reads_an_image_needs_no_key(tiny_model) -> None:
    import matplotlib.pyplot as plt

    sdata = as_spatialdata_io_reads()
    with pytest.warns(UserWarning, match="a 'hires' image of Space Ranger is a small copy"):
        storm.tl.embed(sdata, model=tiny_model, modality="he", field_um=20)
    assert sdata["table"].uns["storm"]["X_storm"]["um_per_px"] == pytest.approx(1.0)
    report = storm.pp.check(sdata, estimate=False)
    assert report["scale"].facts["um_per_px"] == pytest.approx(1.0)
    storm.pl.he(sdata)
    plt.close("all")


def test_each_section_of_a_study_has_its_own_finest(tiny_model) -> None:
    import matplotlib.pyplot as plt

    parts = {name: as_spatialdata_io_reads() for name in "PQ"}
    study = concatenate(parts, concatenate_tables=True)
    assert len(study.images) == 4
    with pytest.warns(UserWarning, match="a 'hires' image of Space Ranger is a small copy"):
        storm.tl.embed(study, model=tiny_model, modality="he", field_um=20, um_per_px=1.0)  # concatenate drops uns
    facts = study["table"].uns["storm"]["X_storm"]
    assert facts["um_per_px"] == pytest.approx(1.0)
    assert set(facts["sections"]) == {"A-P", "A-Q"}
    axes = storm.pl.he(study, um_per_px=1.0)
    assert [ax.get_title() for ax in axes] == ["A-P", "A-Q"]
    plt.close("all")


def other_stain() -> np.ndarray:
    """Tissue in the same places in other colours: what is dark in one is darker in some channel of the other."""
    picture = reduced(scene(), 8).astype(float)
    return np.stack([picture[1], picture[0], 0.5 * (picture[2] + picture[0])]).astype(np.uint8)


@pytest.mark.parametrize(
    ("lowres", "reason"),
    [
        (reduced(scene(seed=1), 8), "another section"),
        (other_stain(), "another stain"),
        (reduced(scene(), 8)[:, :, ::-1].copy(), "mirrored"),
        (reduced(scene(), 8)[:, :20], "of a part"),
        (reduced(scene(), 8)[:1], "one channel"),
        (reduced(scene(), 8).astype(np.uint16), "16 bits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_images_are_a_question(lowres: np.ndarray, reason: str) -> None:
    sdata = as_spatialdata_io_reads(lowres=lowres)
    with pytest.raises(
        ValueError, match=r"several images; choose the H&E image with image_key= out of 'A_hires_image'"
    ):
        select(sdata)


def test_images_of_one_resolution_are_a_question() -> None:
    """A normalised copy, or the same stain twice: neither is finer."""
    sdata = as_spatialdata_io_reads(copy=element(reduced(scene(), 2), A_downscaled_hires=Identity()))
    with pytest.raises(ValueError, match="several images"):
        select(sdata)


def test_the_same_picture_of_two_places_is_a_question() -> None:
    sdata = as_spatialdata_io_reads()
    shifted = get_transformation(sdata["A"], "A_downscaled_lowres").to_affine(("x", "y"), ("x", "y"))
    shifted.matrix[0, 2] += 5
    set_transformation(sdata["A"], shifted, "A_downscaled_lowres")
    with pytest.raises(ValueError, match="several images"):
        select(sdata)


def test_images_without_spots_meet_in_a_system_of_their_own() -> None:
    picture = scene()
    sdata = SpatialData(
        images={
            "fine": element(picture, um=Scale([0.5, 0.5], axes=("x", "y"))),
            "coarse": element(reduced(picture, 4), um=Scale([2.0, 2.0], axes=("x", "y"))),
        }
    )
    assert select(sdata).image_key == "fine"
    del sdata.images["coarse"]
    sdata.images["coarse"] = element(reduced(picture, 4), other=Identity())
    with pytest.raises(ValueError, match="several images"):
        select(sdata)


def test_pictures_of_an_anndata_are_named(caplog: pytest.LogCaptureFixture, tiny_model, toy: SpatialData) -> None:
    adata = toy["table"].copy()
    for modality in ("both", "he"):
        with pytest.raises(ValueError, match=r"holds no H&E image.*storm\.io\.from_anndata\(adata, 'HE\.tif'\)"):
            storm.tl.embed(adata, model=tiny_model, modality=modality)
    adata.uns["spatial"] = {"A": {"images": {"hires": np.zeros((8, 8, 3), np.uint8)}, "scalefactors": FACTORS}}
    with pytest.raises(ValueError, match=r"storm\.io\.from_anndata\(adata\) makes a SpatialData of it"):
        storm.tl.embed(adata, model=tiny_model, modality="both")
    del adata.uns["spatial"]["A"]["scalefactors"]
    adata.obs["sample"] = np.where(np.arange(adata.n_obs) < 60, "A", "B")

    def lines() -> int:
        return sum("storm.io.from_anndata(adata)" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING, logger="storm"):
        storm.tl.embed(adata, model=tiny_model, library_key="sample")
    assert lines() == 1  # for both sections
    caplog.clear()
    storm.tl.embed(adata, model=tiny_model, modality="st", key_added="X_st", library_key="sample")
    storm.pl.domains(adata, "sample", library_key="sample")
    assert lines() == 0

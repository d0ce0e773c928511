"""``storm read``: its options are those of the readers, a store appears whole, and what is no store is recognised."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata

import storm
from storm._bridge.image import levels_of
from storm.cli import main
from storm.cli._described import describe, public
from storm.cli._parser import make_parser
from storm.cli._read_parser import formats
from vendor_folders import cosmx_folder, visium_folder, visium_hd_folder, write_he, xenium_folder

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *argv: str | Path) -> str:
    try:
        status = main([str(one) for one in argv])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


READERS = sorted(name for name in storm.io.__all__ if not name.startswith("to_"))


def test_every_reader_is_a_format():
    assert sorted(formats().values()) == READERS


@pytest.mark.parametrize("function", READERS)
def test_options_are_the_function_s(function):
    """Read from the source, they are what Python itself finds; each has a text."""
    signature = inspect.signature(getattr(storm.io, function))
    _, described = describe(public("storm.io")[function], function)
    assert [one.name for one in described] == list(signature.parameters)
    for one in described:
        default = signature.parameters[one.name].default
        assert default is inspect.Parameter.empty or one.default == default
        assert one.text
        assert "`" not in one.text
    name = next(name for name, one in formats().items() if one == function)
    required = [p for p in signature.parameters.values() if p.default is p.empty]
    options = vars(make_parser().parse_args(["read", name, *("x" for _ in required), "out.zarr"]))
    assert set(signature.parameters) <= set(options)
    for key, parameter in signature.parameters.items():
        if parameter.default is not parameter.empty:
            assert options[key] == parameter.default


def same(written: Path, read: spatialdata.SpatialData) -> None:
    stored = spatialdata.read_zarr(written)
    assert (stored["table"].X != read["table"].X).nnz == 0
    assert list(stored["table"].obs_names) == list(read["table"].obs_names)
    assert set(stored.images) == set(read.images)
    for name in read.images:
        one, other = (np.asarray(levels_of(x[name])[0]) for x in (stored, read))
        assert np.array_equal(one, other)


def test_visium(here, capsys):
    outs, image, _ = visium_folder(here / "run")
    assert main(["read", "visium", str(outs), "new/v.zarr", "--image", str(image)]) == 0
    assert "genes, image 'he' of 480 × 360 pixels, 0.5 µm per pixel: new/v.zarr" in capsys.readouterr().out
    same(here / "new/v.zarr", storm.io.visium(outs, image))
    assert "new/v.zarr exists; give another name, or --overwrite" in refused(
        capsys, "read", "visium", outs, "new/v.zarr"
    )
    assert main(["read", "visium", str(outs), "new/v.zarr", "--no-image", "--overwrite"]) == 0
    assert not spatialdata.read_zarr("new/v.zarr").images
    assert [one.name for one in (here / "new").iterdir()] == ["v.zarr"]


def test_other_platforms(here):
    outs, image, _ = visium_hd_folder(here / "hd", bin_size=16)
    assert main(["read", "visium_hd", str(outs), "hd.zarr", "--bin-size", "16"]) == 0
    same(here / "hd.zarr", storm.io.visium_hd(outs, bin_size=16))
    outs, image, _ = xenium_folder(here / "xenium", alignment=np.eye(3))
    argv = ["read", "xenium", str(outs), "x.zarr", "--image", str(image), "--alignment", "identity", "--no-nuclei"]
    assert main(argv) == 0
    same(here / "x.zarr", storm.io.xenium(outs, image, np.eye(3), nuclei=False))
    assert "nuclei" not in spatialdata.read_zarr("x.zarr").shapes


def test_a_slide_and_an_anndata(here, capsys):
    image = write_he(here / "he.tif", np.full((200, 300, 3), 200, np.uint8))
    assert "um_per_px" in refused(capsys, "read", "slide", image, "s.zarr").replace("-", "_")
    assert not (here / "s.zarr").exists()
    assert main(["read", "slide", str(image), "s.zarr", "--um-per-px", "0.5"]) == 0
    assert spatialdata.read_zarr("s.zarr").images

    obs = pd.DataFrame({"sample": ["A"] * 4 + ["B"] * 4}, index=[f"s{k}" for k in range(8)])
    adata = anndata.AnnData(np.ones((8, 3), np.float32), obs=obs)
    adata.obsm["spatial"] = np.array([[x, y] for y in (60.0, 120.0) for x in (40.0, 100.0, 160.0, 220.0)])
    factors = {"spot_diameter_fullres": 100.0, "tissue_hires_scalef": 1.0}
    adata.uns["spatial"] = {name: {"images": {}, "scalefactors": dict(factors)} for name in "AB"}
    adata.write_h5ad("a.h5ad")
    argv = ["read", "h5ad", "a.h5ad", "a.zarr", "--library-key", "sample"]
    assert main([*argv, "--image", f"A={image}", "--image", f"B={image}", "--um-per-px", "0.65"]) == 0
    assert set(spatialdata.read_zarr("a.zarr").images) == {"A_he", "B_he"}
    assert "once for each" in refused(capsys, *argv, "--overwrite", "--image", f"A={image}", "--image", str(image))


def test_nothing_is_lost(here, capsys):
    outs, _, _ = visium_folder(here / "run")
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("the only copy")
    assert "is not a zarr store" in refused(capsys, "read", "visium", outs, "mine", "--overwrite")
    assert "itself lies" in refused(capsys, "read", "visium", outs, outs, "--overwrite")
    assert "itself lies" in refused(capsys, "read", "visium", outs, here / "run", "--overwrite")
    assert "does not exist" in refused(capsys, "read", "visium", "nothing", "v.zarr")
    assert main(["read", "visium", str(outs), "v.zarr"]) == 0
    (outs / "spatial" / "scalefactors_json.json").unlink()
    refused(capsys, "read", "visium", outs, "v.zarr", "--overwrite")
    assert spatialdata.read_zarr("v.zarr")["table"].n_obs
    assert sorted(one.name for one in here.iterdir()) == ["mine", "run", "v.zarr"]
    assert (here / "mine" / "notes.txt").read_text() == "the only copy"


def test_what_is_no_store_is_recognised(here, capsys):
    visium, image, _ = visium_folder(here / "my run")
    hd, _, _ = visium_hd_folder(here / "hd", bin_size=8)
    xenium, _, _ = xenium_folder(here / "xen", alignment=np.eye(3))
    cosmx = cosmx_folder(here / "cos", alignment=np.eye(3))[0]
    (here / "a.h5ad").write_bytes(b"")
    shutil.copy(image, "slide.tif")
    lines = {
        visium: f"storm read visium '{visium}' 'my run.zarr'",
        here / "my run": f"storm read visium '{here / 'my run'}' 'my run.zarr'",
        visium / "filtered_feature_bc_matrix.h5": f"storm read visium '{visium}' 'my run.zarr'",
        hd: f"storm read visium_hd {hd} hd.zarr",
        hd / "binned_outputs/square_008um": f"storm read visium_hd {hd}/binned_outputs hd.zarr --bin-size 8",
        xenium: f"storm read xenium {xenium} {xenium.name}.zarr",
        cosmx: f"storm read cosmx {cosmx} {cosmx.name}.zarr",
        Path("a.h5ad"): "storm read h5ad a.h5ad a.zarr",
        Path("slide.tif"): "storm read slide slide.tif slide.zarr",
    }
    for path, line in lines.items():
        assert refused(capsys, "domains", path).endswith(f"{path} is no SpatialData store; read it first: {line}")
    # Nothing runs if one of several is none.
    assert "storm read slide" in refused(capsys, "embed", visium / "spatial", "slide.tif")
    for argv in (["check"], ["embed", "--joint", "b.zarr"], ["adapt", "--out", "m"]):
        assert "storm read h5ad a.h5ad a.zarr" in refused(capsys, *argv, "a.h5ad")
    message = refused(capsys, "domains", visium / "spatial")
    assert message.endswith("is not a zarr store, or its metadata are damaged (GroupNotFoundError); "
                            "storm read --help lists what can be read into one")  # fmt: skip
    (here / "many" / "s.zarr").mkdir(parents=True)
    (here / "many" / "s.zarr" / "zarr.json").write_text("{}")
    assert refused(capsys, "domains", "many").endswith("many is a folder of stores, 1 in all; give them: many/*.zarr")


def test_an_unknown_option_is_the_command_s(capsys):
    assert refused(capsys, "embed", "x.zarr", "--modallity", "he") == (
        "storm embed: error: unrecognized arguments: --modallity (did you mean --modality?)"
    )
    with pytest.raises(SystemExit):
        main(["embed", "x.zarr", "--modallity", "he"])
    assert capsys.readouterr().err.startswith("usage: storm embed ")

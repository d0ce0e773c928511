"""What a command was told is found by the next one, and by Python."""

from __future__ import annotations

import pytest
import spatialdata as sd
from spatialdata.transformations import Identity, set_transformation

import storm
from storm.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture
def store(toy, tmp_path):
    """A store of two tables, without a scale."""
    for name in ("he", "spots"):
        set_transformation(toy[name], {"global": Identity()}, set_all=True)
    sdata = sd.SpatialData(images={"he": toy["he"]}, shapes={"spots": toy["spots"]}, tables={"table": toy["table"]})
    sdata.tables["other"] = toy["table"].copy()
    sdata.write(tmp_path / "in.zarr")
    return tmp_path / "in.zarr"


def test_a_command_finds_what_an_earlier_one_was_told(store, tiny_model, tmp_path, capsys):
    tiny_model.save(tmp_path / "tiny")
    embed = ["embed", str(store), "--model", str(tmp_path / "tiny"), "--quiet", "--table-key", "table"]
    assert main(embed) == 2
    assert "no µm scale is known for image 'he'" in capsys.readouterr().err
    assert "storm" not in sd.read_zarr(store)["table"].uns, "a command that fails remembers nothing"
    assert main([*embed, "--um-per-px", "1.2"]) == 0
    capsys.readouterr()
    assert main([*embed, "--um-per-px", "1.0"]) == 0
    printed = capsys.readouterr().err
    assert "storm: warning: --um-per-px 1 is used for image 'he', in place of the 1.2 that an earlier call" in printed
    assert main(["domains", str(store), "--n-domains", "2", "--quiet"]) == 0
    sdata = sd.read_zarr(store)
    assert "storm_um_per_unit" not in sdata["other"].obs
    assert storm.pl.domains(sdata).images, "the H&E is drawn, in its scale"


def test_predicted_genes_are_stored_with_what_was_told(store, toy, tiny_model, tmp_path):
    from dataclasses import replace

    genes = list(toy["table"].var_names[:3])
    head = storm.tl.fit_expression(toy, genes, model=tiny_model, um_per_px=1.0, conformal=False)
    replace(tiny_model, head=head).save(tmp_path / "tiny")
    told = ["--model", str(tmp_path / "tiny"), "--quiet", "--table-key", "table", "--um-per-px", "1.0"]
    assert main(["predict", str(store), *told, "--keep", "all"]) == 0
    sdata = sd.read_zarr(store)
    assert (sdata["table"].obs["storm_um_per_unit"] == 1).all()
    assert len(storm.pl.expression(sdata, genes[0])[0]) == 3

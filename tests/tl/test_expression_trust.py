"""What a prediction says about itself: intervals, reliability, tiles that are unlike the training."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import spatialdata
from spatialdata import SpatialData

import storm
from storm.data.normalise import log_normalise
from storm.metrics import interval_coverage

LINEAR = storm.HeadConfig(penalty=1.0, epochs=0)


@pytest.fixture(scope="module")
def trained(toy_once, tiny_model):
    """A section with the embeddings of its tiles, and a head trained on it."""
    table = toy_once.tables["table"].copy()
    section = SpatialData(images=dict(toy_once.images), shapes=dict(toy_once.shapes), tables={"table": table})
    storm.tl.encode_tiles(section, "stain-texture")
    return section, storm.tl.fit_expression(section, n_genes=40, model=tiny_model, config=LINEAR)


@pytest.fixture
def section(trained) -> SpatialData:
    toy = trained[0]
    table = toy.tables["table"].copy()
    return SpatialData(images=dict(toy.images), shapes=dict(toy.shapes), tables={"table": table})


@pytest.fixture
def head(trained):
    return trained[1]


def test_intervals_are_written_and_cover(section, tiny_model, head) -> None:
    storm.tl.predict_expression(section, model=tiny_model, head=head, keep="all", intervals=True)
    new = section.tables["table_storm"]
    assert list(new.var_names) == list(head.genes)
    assert set(new.layers) - {None} == {"storm_lower", "storm_upper"}
    lower, upper = (np.asarray(new.layers[f"storm_{side}"]) for side in ("lower", "upper"))
    assert (lower >= 0).all()
    np.testing.assert_allclose(lower, np.maximum(new.X + new.var["storm_lo"].to_numpy(), 0), atol=1e-5)
    np.testing.assert_allclose(upper, np.maximum(new.X + new.var["storm_hi"].to_numpy(), 0), atol=1e-5)
    table = section.tables["table"]
    measured = log_normalise(table.X)[:, table.var_names.get_indexer(list(head.genes))].toarray()
    # the head has seen these spots, so that their errors are smaller than those of held-out ones
    assert interval_coverage(measured, lower, upper).mean() > 0.9


def test_a_depth_makes_the_difference(section, tiny_model, head) -> None:
    widths = []
    for depth in (None, 400, head.intervals.default_depth):
        storm.tl.predict_expression(section, model=tiny_model, head=head, depth=depth)
        var = section.tables["table_storm"].var
        widths.append((var["storm_hi"] - var["storm_lo"]).to_numpy())
    np.testing.assert_allclose(widths[0], widths[2])
    assert not np.allclose(widths[0], widths[1])
    assert section.tables["table_storm"].uns["storm"]["storm"]["depth"] == head.intervals.default_depth
    with pytest.raises(ValueError, match="depth=0"):
        storm.tl.predict_expression(section, model=tiny_model, head=head, depth=0)


def test_a_head_without_intervals(section, tiny_model) -> None:
    plain = storm.tl.fit_expression(section, n_genes=3, model=tiny_model, config=LINEAR, conformal=False)
    assert plain.intervals is None
    assert plain.novelty is None
    storm.tl.predict_expression(section, model=tiny_model, head=plain, keep="all")
    assert section.tables["table_storm"].var["storm_lo"].isna().all()
    assert section.tables["table_storm"].obs["storm_ood_p"].isna().all()
    for options in ({"intervals": True}, {"depth": 500}):
        with pytest.raises(ValueError, match="no prediction intervals"):
            storm.tl.predict_expression(section, model=tiny_model, head=plain, **options)
    for alpha in (0, 1, 2, "x"):
        with pytest.raises(ValueError, match="alpha="):
            storm.tl.fit_expression(section, n_genes=3, model=tiny_model, config=LINEAR, alpha=alpha)


def test_reliability_says_what_it_rests_on(section, tiny_model, head) -> None:
    assert (head.n_sections, head.n_patients) == (1, 1)
    assert (head.reliability_min <= head.reliability + 1e-6).all()
    two = storm.tl.fit_expression(
        [spatialdata.deepcopy(section) for _ in range(3)],
        list(head.genes[:6]),
        model=tiny_model,
        config=LINEAR,
        groups=["a", "a", "b"],
    )
    assert (two.n_sections, two.n_patients) == (3, 2)
    for one, expected in ((head, None), (two, (two.reliability_min > 0).astype(float))):
        storm.tl.predict_expression(section, list(two.genes), model=tiny_model, head=one, keep="all")
        var = section.tables["table_storm"].var
        assert (var["storm_n_sections"] == one.n_sections).all()
        assert (var["storm_n_patients"] == one.n_patients).all()
        if expected is None:
            assert var["storm_reliable"].isna().all()
        else:
            np.testing.assert_array_equal(var["storm_reliable"], expected)


def test_genes_no_better_than_chance_are_left_out(section, tiny_model, head) -> None:
    useless = head.genes[3]
    reliability = np.where(np.arange(40) == 3, -0.1, np.maximum(head.reliability, 0.01)).astype(np.float32)
    changed = dataclasses.replace(head, reliability=reliability)
    storm.tl.predict_expression(section, model=tiny_model, head=changed)
    assert useless not in section.tables["table_storm"].var_names
    assert section.tables["table_storm"].n_vars == 39
    storm.tl.predict_expression(section, model=tiny_model, head=changed, keep="all")
    assert useless in section.tables["table_storm"].var_names
    with pytest.warns(UserWarning, match=f"1 of 2 genes were predicted no better than chance .*'{useless}'"):
        storm.tl.predict_expression(section, [head.genes[0], useless], model=tiny_model, head=changed)
    assert list(section.tables["table_storm"].var_names) == [head.genes[0], useless]
    nothing = dataclasses.replace(head, reliability=np.full(40, -0.1, np.float32))
    with pytest.raises(ValueError, match="none of the 40 genes"):
        storm.tl.predict_expression(section, model=tiny_model, head=nothing)


def test_tiles_unlike_the_training_are_a_warning(section, tiny_model, head) -> None:
    storm.tl.predict_expression(section, model=tiny_model, head=head)
    p = section.tables["table_storm"].obs["storm_ood_p"]
    assert p.between(0, 1).all()
    share = section.tables["table_storm"].uns["storm"]["storm"]["unusual_tiles"]
    assert share == pytest.approx((p <= 0.05).mean())
    assert share < 0.25
    moved = dataclasses.replace(head.novelty, mean=head.novelty.mean + 5 * head.novelty.std)
    with pytest.warns(UserWarning, match=r"100% of the tiles are unlike those that the head was trained on"):
        storm.tl.predict_expression(section, model=tiny_model, head=dataclasses.replace(head, novelty=moved))


def test_columns_of_the_user_are_not_replaced(section, tiny_model, head) -> None:
    section.tables["table"].obs["mine_ood_p"] = 1.0
    with pytest.raises(ValueError, match=r"obs\['mine_ood_p'\] exists already"):
        storm.tl.predict_expression(section, model=tiny_model, head=head, key_added="mine")


def test_a_damaged_calibration_is_refused(head, tmp_path) -> None:
    head.save(tmp_path / "h")
    file = tmp_path / "h" / "head_calibration.safetensors"
    assert file.is_file()
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    with pytest.raises(ValueError, match="corrupted"):
        storm.ExpressionHead.load(tmp_path / "h")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="head_calibration"):
        storm.ExpressionHead.load(tmp_path / "h")


def test_measured_spots_of_a_new_patient_mend_the_intervals(section, tiny_model, head) -> None:
    """A patient whose genes are all shifted: intervals of the training fail, those of twenty of its spots do not."""
    table = section.tables["table"]
    genes = list(head.genes)
    moved = table.var_names.get_indexer(genes[:20])
    counts = table.X.tolil()
    counts[:, moved] = counts[:, moved] * 6
    table.X = counts.tocsr()
    rng = np.random.default_rng(0)
    table.obs["measured"] = np.isin(np.arange(table.n_obs), rng.choice(table.n_obs, 30, replace=False))
    again = storm.tl.recalibrate_expression(head, section, "measured", model=tiny_model)
    assert again.genes == head.genes
    assert again.notes["recalibrated_on"] == "30 spots"
    rest = ~table.obs["measured"].to_numpy()
    measured = log_normalise(table.X)[:, table.var_names.get_indexer(genes)].toarray()[rest]
    covered = []
    for one in (head, again):
        storm.tl.predict_expression(section, model=tiny_model, head=one, keep="all", intervals=True)
        new = section.tables["table_storm"]
        lower, upper = (np.asarray(new.layers[f"storm_{side}"])[rest] for side in ("lower", "upper"))
        covered.append(interval_coverage(measured, lower, upper)[:20].mean())
    assert covered[1] > 0.85
    assert covered[0] < covered[1] - 0.1


def test_recalibration_needs_spots_genes_and_the_model(section, tiny_model, head) -> None:
    few = np.arange(section.tables["table"].n_obs) < 18
    with pytest.raises(ValueError, match=r"18 spots .* alpha=0.1 need 19"):
        storm.tl.recalibrate_expression(head, section, few, model=tiny_model)
    with pytest.raises(ValueError, match="spots has shape"):
        storm.tl.recalibrate_expression(head, section, few[:5], model=tiny_model)
    with pytest.raises(ValueError, match="another model"):
        storm.tl.recalibrate_expression(head, section)
    with pytest.raises(ValueError, match="alpha=1"):
        storm.tl.recalibrate_expression(head, section, model=tiny_model, alpha=1)
    table = section.tables["table"]
    others = ~table.var_names.isin(head.genes)
    section.tables["table"] = table[:, others].copy()
    with pytest.raises(ValueError, match="40 of the head's 40 genes are not measured"):
        storm.tl.recalibrate_expression(head, section, model=tiny_model)
    section.tables["table"] = table[:, others | table.var_names.isin(head.genes[:30])].copy()
    with pytest.warns(UserWarning, match="10 of the head's 40 genes are not measured in the section and keep"):
        again = storm.tl.recalibrate_expression(head, section, model=tiny_model)
    depth = again.intervals.default_depth
    np.testing.assert_allclose(again.intervals.lower[0, 30:], head.intervals.at(depth)[0][30:])
    assert not np.allclose(again.intervals.lower[0, :30], head.intervals.at(depth)[0][:30])

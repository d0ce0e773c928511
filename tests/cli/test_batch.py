"""A batch of sections: what is done is skipped, what will be done is said first, what was printed is in the log."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import spatialdata
import zarr
from anndata import AnnData

import storm
from storm.cli import main

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture(scope="module")
def stored(toy_once, tiny_model, tmp_path_factory) -> Path:
    """Two sections of expression, and a model."""
    folder = tmp_path_factory.mktemp("batch")
    table = toy_once["table"]
    for name, rows in (("A", slice(0, 60)), ("B", slice(60, 140))):
        own = spatialdata.models.TableModel.parse(table[rows].copy())
        spatialdata.SpatialData(shapes={"spots": toy_once["spots"]}, tables={"table": own}).write(
            folder / f"{name}.zarr"
        )
    tiny_model.save(folder / "model")
    return folder


@pytest.fixture
def here(stored, tmp_path, monkeypatch) -> Path:
    folder = Path(shutil.copytree(stored, tmp_path / "here"))
    monkeypatch.chdir(folder)
    return folder


EMBED = ["embed", "A.zarr", "B.zarr", "--model", "model", "--modality", "st", "--workers", "1", "--skip-existing"]
DOMAINS = ["domains", "A.zarr", "B.zarr", "--n-domains", "3", "--workers", "1", "--skip-existing"]


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def statuses(capsys, *argv: str, status: int = 0) -> tuple[dict[str, str], str, str]:
    """Status of each section in the table that is printed, and all that was printed."""
    assert main(list(argv)) == status
    out, err = capsys.readouterr()
    return dict(re.findall(r"^([AB])\.zarr +(ok|skipped|failed|not done) ", out, re.M)), out, err


def test_what_was_done_with_the_same_settings_is_skipped(here, capsys):
    assert statuses(capsys, *EMBED)[0] == {"A": "ok", "B": "ok"}
    before = tree(here)
    found, out, _ = statuses(capsys, *EMBED, "--device", "cpu", "--batch-size", "7", "--summary", "../s.csv")
    assert found == {"A": "skipped", "B": "skipped"}
    assert "2 of 2 sections skipped: done before, with the same settings" in out
    assert tree(here) == before
    with Path("../s.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["skipped", "skipped"]

    assert main(["embed", "A.zarr", "--model", "model", "--modality", "st", "--seed", "1"]) == 0
    capsys.readouterr()
    found, _, err = statuses(capsys, *EMBED)
    assert found == {"A": "ok", "B": "skipped"}
    assert "A.zarr: has 'X_storm', made with other settings (seed 1, now 0); it is computed again" in err

    # Another model under the same name is another setting.
    storm.build_model("storm-tiny", genes=spatialdata.read_zarr("A.zarr")["table"].var_names, seed=1).save("other")
    shutil.rmtree("model")
    shutil.move("other", "model")
    found, _, err = statuses(capsys, *EMBED)
    assert found == {"A": "ok", "B": "ok"}
    assert "other settings (model " in err


def rewritten(store: str, change: Callable[[AnnData], None]) -> None:
    """Store a table anew in Python, with another content."""
    sdata = spatialdata.read_zarr(store)
    change(sdata["table"])
    sdata.delete_element_from_disk("table")
    sdata.write_element("table")


def test_what_changed_since_is_not_skipped(here, capsys):
    def counts(table: AnnData) -> None:
        table.X = table.X.tocsr()
        table.X.data[0] += 1

    def scale(table: AnnData) -> None:
        table.obs["storm_um_per_unit"] = 1.0  # as the coordinate system says

    def notes(table: AnnData) -> None:
        table.obs["mine"] = 1.0
        table.X = table.X.copy()

    statuses(capsys, *EMBED)
    for change, what in ((counts, "counts of table 'table'"), (scale, "scale of table 'table'")):
        rewritten("A.zarr", change)
        found, _, err = statuses(capsys, *EMBED)
        assert found == {"A": "ok", "B": "skipped"}
        line = f"A.zarr: has 'X_storm', made of other data (changed since: {what}); it is computed again"
        assert line in err
        assert statuses(capsys, *EMBED)[0] == {"A": "skipped", "B": "skipped"}

    def raw(table: AnnData) -> None:
        before = table if table.raw is None else table.raw
        table.raw = AnnData(before.X.copy(), var=before.var, obs=table.obs)
        table.raw.X.data[0] += 1

    for _ in range(2):
        rewritten("A.zarr", raw)
        for status in ("ok", "skipped"):
            assert statuses(capsys, *EMBED[:2], *EMBED[3:], "--layer", "raw")[0] == {"A": status}
    statuses(capsys, *EMBED)

    # What is not read may change, and a copy of a store has other dates.
    rewritten("A.zarr", notes)
    shutil.move("B.zarr", "old")
    shutil.copytree("old", "B.zarr", copy_function=shutil.copyfile)
    assert statuses(capsys, *EMBED)[0] == {"A": "skipped", "B": "skipped"}

    # A new store that is kept was made of the one beside it.
    out = ["--out", "new"]
    statuses(capsys, *EMBED, *out)
    rewritten("B.zarr", counts)
    before = tree(here / "new")
    found, _, err = statuses(capsys, *EMBED, *out, status=2)
    assert found == {"A": "skipped", "B": "not done"}
    assert "made of other data (changed since: counts of table 'table'); it is kept as it is" in err
    assert tree(here / "new") == before


def test_what_was_read_keeps_its_dates(here, monkeypatch, capsys):
    """A result that is stored leaves them, so that looking for changes opens no file of the data."""
    statuses(capsys, *EMBED)
    monkeypatch.setattr("storm.cli._inputs._of_content", lambda paths: pytest.fail(f"{paths} are read"))
    assert statuses(capsys, *EMBED)[0] == {"A": "skipped", "B": "skipped"}


def test_another_image_is_not_skipped(toy, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_model.save("model")
    toy.write("A.zarr")
    embed = ["embed", "A.zarr", "--model", "model", "--skip-existing", "--quiet"]
    expression = [*embed, "--modality", "st", "--key-added", "X_st"]
    for _ in range(2):
        status = [statuses(capsys, *argv)[0]["A"] for argv in (embed, expression)]
    assert status == ["skipped", "skipped"]
    zarr.open_array("A.zarr/images/he/s0", mode="r+")[:, 0, 0] = 7
    found, _, err = statuses(capsys, *embed)
    assert found["A"] == "ok"
    assert "(changed since: image 'he')" in err
    assert statuses(capsys, *expression)[0]["A"] == "skipped"


def test_domains_of_another_embedding_are_not_skipped(here, capsys):
    main(EMBED)
    assert statuses(capsys, *DOMAINS)[0] == {"A": "ok", "B": "ok"}
    assert statuses(capsys, *DOMAINS)[0] == {"A": "skipped", "B": "skipped"}
    main(["embed", "A.zarr", "--model", "model", "--modality", "st", "--seed", "1"])
    found, _, err = statuses(capsys, *DOMAINS)
    assert found == {"A": "ok", "B": "skipped"}
    assert "(from another embedding" in err
    # One that Python made may be any by now.
    sdata = spatialdata.read_zarr("B.zarr")
    del sdata["table"].uns["storm"]["X_storm"]["command"]
    sdata.delete_element_from_disk("table")
    sdata.write_element("table")
    for _ in range(2):
        assert statuses(capsys, *DOMAINS)[0] == {"A": "skipped", "B": "ok"}


def test_new_stores_of_other_settings_are_kept(here, capsys):
    out = ["--out", "new"]
    main(["embed", "A.zarr", *EMBED[3:], "--out", "new/A.zarr"])
    capsys.readouterr()
    assert statuses(capsys, *EMBED, *out)[0] == {"A": "skipped", "B": "ok"}
    before = tree(here)
    found, _, err = statuses(capsys, *EMBED, *out, "--seed", "4", status=2)
    assert found == {"A": "not done", "B": "not done"}
    assert "A.zarr has 'X_storm', made with other settings (seed 0, now 4); it is kept as it is" in err
    assert tree(here) == before


def test_a_study_is_skipped_as_a_whole(here, capsys):
    joint = [*EMBED, "--joint", "--readout", "adaptive"]
    assert statuses(capsys, *joint)[0] == {"A": "ok", "B": "ok"}
    assert statuses(capsys, *joint)[0] == {"A": "skipped", "B": "skipped"}
    main(["embed", "A.zarr", "--model", "model", "--modality", "st"])
    found, _, err = statuses(capsys, *joint)
    assert found == {"A": "ok", "B": "ok"}
    assert "a study is computed as a whole" in err
    domains = ["domains", "A.zarr", "B.zarr", "--n-domains", "3", "--joint", "--skip-existing"]
    assert statuses(capsys, *domains)[0] == {"A": "ok", "B": "ok"}
    assert statuses(capsys, *domains)[0] == {"A": "skipped", "B": "skipped"}


@pytest.mark.parametrize("command", [EMBED, DOMAINS, [*EMBED, "--joint"]])
def test_a_dry_run_writes_nothing(command, here, capsys):
    if command is DOMAINS:
        main(EMBED)
        capsys.readouterr()
    before = tree(here)
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert tree(here) == before
    assert re.search(r"^A\.zarr +60 rows × ", out, re.M)
    assert re.search(r"^B\.zarr +80 rows × ", out, re.M)
    assert "2 of 2 sections to do, 140 rows; 0 skipped; 0 broken" in out
    assert re.search(
        r"^time: about [\d.]+ m?s with one worker; [\d.]+ m?s measured on \d+ rows of [AB]\.zarr", out, re.M
    )
    assert re.search(r"^memory: \d\.\d GiB measured in this process", out, re.M)
    assert out.endswith("nothing was stored\n")


def test_a_dry_run_names_what_would_fail(here, capsys):
    main(["embed", "A.zarr", *EMBED[3:]])
    shutil.rmtree("B.zarr/tables/table/obs")
    capsys.readouterr()
    assert main([*EMBED, "--dry-run"]) == 2
    out = capsys.readouterr().out
    assert "A.zarr: skipped" in out
    assert re.search(r"^\S+B\.zarr is damaged: .*\(cannot be opened\)$", out, re.M)
    assert "0 of 2 sections to do, 0 rows; 1 skipped; 1 broken" in out


def test_the_log_has_all_that_was_printed(here, capsys):
    log = ["--log", "logs/run.log"]
    assert main([*EMBED, *log]) == 0
    assert main(["domains", "A.zarr", "--use-rep", "nope", *log]) == 2
    assert main(["domains", "A.zarr", "B.zarr", "--use-rep", "nope", "--workers", "1", *log]) == 2
    printed = capsys.readouterr()
    text = Path("logs/run.log").read_text()
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d ", "", line) for line in text.splitlines()]
    assert lines[0] == "# log of storm"
    assert all(line != full for line, full in zip(lines[1:], text.splitlines()[1:], strict=True))  # each has its time
    assert sum(line.startswith(f"storm {storm.__version__}: storm ") for line in lines) == 3
    assert set(printed.out.splitlines()) <= set(lines)
    assert set(printed.err.splitlines()) <= set(lines)
    assert sum(line == "Traceback (most recent call last):" for line in lines) >= 3
    assert "Traceback" not in printed.err
    Path("notes.txt").write_text("the only copy")
    assert main(["domains", "A.zarr", "--log", "notes.txt"]) == 2
    assert "is no log of storm" in capsys.readouterr().err
    assert Path("notes.txt").read_text() == "the only copy"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("storm e", {"encode", "embed", "export"}),
        ("storm embed --modality ", {"auto", "both", "he", "st"}),
        ("storm read visium_hd --bin-size ", {"2", "8", "16", "cells"}),
        ("storm embed s.zarr --readou", {"--readout"}),
    ],
)
def test_a_shell_completes(line, words, tmp_path):
    answer = tmp_path / "words"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "storm"], env=os.environ | asked, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert set(answer.read_text().split("\n")) == words
    assert not re.search(r"\| +(numpy|torch|pandas|spatialdata)$", done.stderr, re.M)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "storm" in capsys.readouterr().out

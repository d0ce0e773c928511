"""Models on disk: what is read is what was written, or an error says why not."""

from __future__ import annotations

import json
import random
import re
import shutil
import traceback
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import storm
from storm._loading import ExpressionHead, StormModel
from storm.expression import NovaeEncoder
from storm.expression.novae_models import random_novae
from storm.model.heads import ExpressionMLP
from storm.model.weights import sha256


def test_packaged_model_loads_and_names_itself():
    model = storm.load_model()
    assert model.name == "storm-mini"
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert model.head is not None
    assert len(model.head.genes) == len(model.head.reliability) == 500
    assert len(model.sha256) == 64
    assert storm.load_model(model) is model


def test_round_trip(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "m")
    again = storm.load_model(tmp_path / "m")
    assert again.sha256 == tiny_model.sha256
    assert again.vocabulary == tiny_model.vocabulary
    assert again.settings == tiny_model.settings
    for name, tensor in tiny_model.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    assert not list((tmp_path / "m").glob("*part"))
    assert all(path.suffix in (".safetensors", ".json", ".tsv") for path in (tmp_path / "m").iterdir())


@pytest.fixture
def saved(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "m")
    return tmp_path / "m"


def test_unknown_model():
    with pytest.raises(ValueError, match=r"'storm-huge' is neither a packaged model \('storm-mini'"):
        storm.load_model("storm-huge")


@pytest.mark.parametrize("damage", ["flip", "truncate", "pickle", "remove"])
def test_damaged_weights(saved, damage):
    path = saved / "network.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "pickle":
        torch.save({"w": torch.zeros(3)}, path)
    else:
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"network\.safetensors"):
        storm.load_model(saved)


def test_a_pickle_is_not_read_even_if_its_checksum_fits(saved):
    from storm.model.weights import read_weights

    torch.save({"w": torch.zeros(3)}, saved / "network.safetensors")
    with pytest.raises(ValueError, match="never loaded"):
        read_weights(saved / "network.safetensors", expected=sha256(saved / "network.safetensors"))


def test_genes_and_format_are_checked(saved):
    genes = saved / "genes.tsv"
    text = genes.read_text()
    genes.write_text(text + "NEW\t\n")
    with pytest.raises(ValueError, match=r"genes\.tsv"):
        storm.load_model(saved)
    genes.write_text(text)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        storm.load_model(saved)


def test_weights_of_another_shape(saved):
    config = json.loads((saved / "config.json").read_text())
    config["network"]["width"] = 64
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit the network"):
        storm.load_model(saved)


def test_checksum_tells_networks_apart(tiny_model):
    values = {name: getattr(tiny_model, name) for name in StormModel.__dataclass_fields__}
    torch.manual_seed(99)
    other = StormModel(**{**values, "network": storm.model.Storm(tiny_model.config)})
    assert other.sha256 != tiny_model.sha256
    with pytest.raises(ValueError, match="readout='nose'"):
        StormModel(**{**values, "settings": {**tiny_model.settings, "readout": "nose"}})
    assert np.isfinite(tiny_model.statistic("he_mean")).all()


# ---------------------------------------------------------------------------------------------- hostile folders


def change(folder: Path, file: str, edit) -> None:
    """Edit a JSON file of a folder, and let its checksum in config.json follow."""
    values = json.loads((folder / file).read_text())
    edit(values)
    (folder / file).write_text(json.dumps(values))
    if file != "config.json":
        trust(folder, file)


def trust(folder: Path, *files: str) -> None:
    """Give files of a folder the checksums that they have now."""
    values = json.loads((folder / "config.json").read_text())
    for file in files:
        values["sha256"][file] = sha256(folder / file)
    (folder / "config.json").write_text(json.dumps(values))


@pytest.fixture
def with_head(tiny_model, tmp_path):
    """A stored model with a head of three genes."""
    head = ExpressionHead(
        genes=("A", "B", "C"),
        reliability=np.array([0.5, np.nan, 0.1], dtype=np.float32),
        module=ExpressionMLP(8, 3, hidden=4),
        model_sha256=tiny_model.sha256,
    )
    replace(tiny_model, head=head).save(tmp_path / "h")
    return tmp_path / "h"


@pytest.mark.parametrize("file", ["network", "statistics", "expression", "head"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: torch.full_like(x, torch.nan), "NaN or infinite"),
        (lambda x: torch.full_like(x, torch.inf), "NaN or infinite"),
        (lambda x: torch.full_like(x, 1e300, dtype=torch.float64), "NaN or infinite"),
        (lambda x: x.to(torch.int32), "I32 in .* where real numbers are needed"),
        (lambda x: x.to(torch.complex64), "C64 in .* where real numbers are needed"),
    ],
)
def test_weights_are_finite_real_numbers(with_head, file, damage, message) -> None:
    path = with_head / f"{file}.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    save_file(state | {name: damage(state[name])}, path)
    trust(with_head, path.name)
    if file == "head":
        change(with_head, "head.json", lambda values: values.update(sha256=sha256(path)))
    with pytest.raises(ValueError, match=message):
        storm.load_model(with_head)


def test_half_precision_is_read_as_float32(saved) -> None:
    path = saved / "network.safetensors"
    state = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
    save_file(state, path)
    trust(saved, path.name)
    network = storm.load_model(saved).network
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(network.norm.weight, state["norm.weight"].float())


@pytest.mark.parametrize("value", [None, "", "0" * 63, 5, ["0" * 64], "missing"])
@pytest.mark.parametrize("name", ["network.safetensors", "genes.tsv", "head.json", "head.safetensors"])
def test_every_file_has_a_checksum(with_head, name, value) -> None:
    def edit(values):
        values["sha256"][name] = value
        if value == "missing":
            del values["sha256"][name]

    change(with_head, "config.json", edit)
    with pytest.raises(ValueError, match=f"sha256.*{name}"):
        storm.load_model(with_head)


def test_a_head_is_what_the_configuration_lists(with_head) -> None:
    assert storm.load_model(with_head).head.genes == ("A", "B", "C")
    values = json.loads((with_head / "head.json").read_text())
    (with_head / "head.json").write_text(json.dumps({**values, "reliability": [1, 1, 1]}))
    with pytest.raises(ValueError, match=r"'head\.json' .* does not match its sha256"):
        storm.load_model(with_head)
    (with_head / "head.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no 'head\.json'"):
        storm.load_model(with_head)


def test_a_head_that_was_there_before_goes(with_head, tiny_model) -> None:
    tiny_model.save(with_head)
    assert storm.load_model(with_head).head is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 4_000_000), ("depth", 10**9), ("he_dim", 10**9), ("n_genes", 10**8), ("decoder_depth", 10**9),
        ("decoder_width", 4_000_000), ("mlp_ratio", 1e6), ("width", 10**40), ("heads", 10**9), ("depth", 3),
        ("width", 64), ("mlp_ratio", 1e308), ("st_dim", 9),
    ],
)  # fmt: skip
def test_sizes_are_compared_before_anything_is_allocated(saved, field, value) -> None:
    change(saved, "config.json", lambda values: values["network"].update({field: value}))
    with (
        limited_memory(),
        pytest.raises(ValueError, match=r"does not fit|cannot be the size|mlp_ratio|multiple"),
    ):
        storm.load_model(saved)


@pytest.mark.parametrize("field", ["in_dim", "hidden"])
def test_sizes_of_a_head_are_compared_too(with_head, field) -> None:
    change(with_head, "head.json", lambda values: values.update({field: 10**9}))
    with limited_memory(), pytest.raises(ValueError, match=f"head.safetensors.*{field}=1000000000"):
        storm.load_model(with_head)


def test_the_expression_encoders_size_is_compared(saved) -> None:
    change(saved, "config.json", lambda values: values["expression"].update(dim=10**9))
    with limited_memory(), pytest.raises(ValueError, match=r"expression encoder.*dim=1000000000"):
        storm.load_model(saved)


@contextmanager
def limited_memory():
    """At most 2 GB more than now: what a wrong size would allocate is an error and not a dead machine."""
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2 * 1024**3, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


@pytest.mark.parametrize("section", ["network", "tile_encoder", "expression", "settings", "card", "sha256"])
@pytest.mark.parametrize("value", [[1], 5, None, "text", True])
def test_a_section_is_an_object(saved, section, value) -> None:
    change(saved, "config.json", lambda values: values.update({section: value}))
    with pytest.raises(ValueError, match=f"'config.json' in .*field '{section}' must be a JSON object"):
        storm.load_model(saved)


@pytest.mark.parametrize("text", ["[1]", "null", "5", "", "{", "[" * 100_000, "\x00", '{"format": ' + "9" * 5000 + "}"])
def test_a_file_is_an_object(saved, text) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"'config\.json' in"):
        storm.load_model(saved)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("network", "width"), "32"), (("network", "width"), True), (("network", "dropout"), None),
        (("network", "slope_scale"), float("nan")), (("network", "st_likelihood"), ["nb"]),
        (("network", "colour"), 1), (("tile_encoder", "name"), 5), (("tile_encoder", "modified"), "no"),
        (("tile_encoder", "dim"), [16]), (("tile_encoder", "sha256"), 7), (("expression", "kind"), ["factors"]),
        (("expression", "min_genes"), -1), (("expression", "name"), None), (("settings", "readout"), ["center"]),
        (("settings", "standardise"), None), (("settings", "modality_weights"), {"he": float("inf")}),
        (("settings", "modality_weights"), None), (("settings", "tile_px"), 1.5), (("settings", "trained"), "yes"),
    ],
)  # fmt: skip
def test_a_field_is_named(saved, path, value) -> None:
    section, field = path
    change(saved, "config.json", lambda values: values[section].update({field: value}))
    with pytest.raises(ValueError, match=field):
        storm.load_model(saved)


@pytest.mark.parametrize("name", ["../genes.tsv", "/etc/passwd", "a/b.tsv", "..", "..\\genes.tsv", "C:genes.tsv"])
def test_no_file_outside_the_folder_is_read(saved, name) -> None:
    change(saved, "config.json", lambda values: values["expression"].update(genes=name))
    with pytest.raises(ValueError, match=r"expression\.genes.*the name of a file in this folder"):
        storm.load_model(saved)


@pytest.mark.parametrize("model", [5, None, b"storm-mini", ["storm-mini"], {"a": 1}])
def test_a_model_is_a_name_or_a_path(model) -> None:
    with pytest.raises(TypeError, match=r"give the name of a packaged model, a folder.*or a StormModel"):
        storm.load_model(model)


@pytest.mark.parametrize("model", ["", "a\0b", "x" * 10_000, "~nobody_at_all/x", "../storm-mini"])
def test_a_name_that_cannot_be_a_path(model) -> None:
    with pytest.raises(ValueError, match=r"is neither a packaged model|holds no config\.json"):
        storm.load_model(model)


def test_other_arguments_have_types(saved) -> None:
    with pytest.raises(TypeError, match="tile_encoder=5 is a int"):
        storm.load_model(saved, tile_encoder=5)
    with pytest.raises(TypeError, match="sha256=5 is a int"):
        storm.load_model(saved, sha256=5)


@pytest.mark.parametrize("kind", ["factors", "novae"])
def test_global_random_numbers_are_left_alone(kind, toy_once, tmp_path) -> None:
    genes = list(map(str, toy_once.tables["table"].var_names))
    expression = None
    if kind == "novae":
        small = random_novae(genes, embedding_size=8, hidden_size=16, heads=2, num_layers=2)
        expression = NovaeEncoder(small)
    model = storm.build_model("storm-tiny", genes=genes, expression=expression)
    model.save(tmp_path / "m")
    states = []
    for load in (lambda: None, lambda: storm.load_model(tmp_path / "m")):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002  the generator in question
        random.seed(3)
        load()
        states.append((torch.rand(4).tolist(), np.random.rand(4).tolist(), random.random()))  # noqa: NPY002
    assert states[0] == states[1]


def test_novaes_sizes_are_those_of_its_tensors(toy_once, tmp_path) -> None:
    genes = list(map(str, toy_once.tables["table"].var_names))
    encoder = NovaeEncoder(random_novae(genes, embedding_size=8, hidden_size=16, heads=2, num_layers=2))
    storm.build_model("storm-tiny", expression=encoder).save(tmp_path / "m")
    for field in ("hidden_size", "heads", "num_layers", "output_size", "embedding_size", "histo_embedding_size"):
        change(tmp_path / "m", "config.json", lambda values: values["expression"]["shape"].update({field: 10**7}))  # noqa: B023
        with limited_memory(), pytest.raises(ValueError, match=f"Novae's hyper-parameters.*'{field}': 10000000"):
            storm.load_model(tmp_path / "m")
        change(
            tmp_path / "m",
            "config.json",
            lambda values: values["expression"]["shape"].update({field: encoder.facts()["shape"][field]}),  # noqa: B023
        )
    assert storm.load_model(tmp_path / "m").expression.dim == encoder.dim


def test_gene_names_survive_or_are_refused(toy_once, tmp_path) -> None:
    genes = [*map(str, toy_once.tables["table"].var_names), "odd\x85name", "two\u2028lines"]
    model = storm.build_model("storm-tiny", genes=genes)
    model.save(tmp_path / "m")
    assert storm.load_model(tmp_path / "m").vocabulary.symbols == tuple(genes)
    with pytest.raises(ValueError, match="tabs or line breaks cannot be stored"):
        storm.build_model("storm-tiny", genes=["a\tb", *"cdefghij"]).save(tmp_path / "n")


def test_any_damage_is_a_model_or_an_error_of_ours(with_head, tmp_path) -> None:
    """Values of a folder's JSON files, exchanged one at a time for others that do not belong there."""
    draw = random.Random(0)
    odd = [None, True, -1, 10**12, 1.5, float("nan"), "", "../x", "a" * 3000, [], [1], {}, {"a": None}]
    n_loaded, errors = 0, []
    for k in range(80):
        folder = tmp_path / f"{k}"
        shutil.copytree(with_head, folder)
        file = ("config.json", "head.json")[k % 2]
        values = json.loads((folder / file).read_text())
        holder, key = draw.choice(list(places(values)))
        holder[key] = draw.choice(odd)
        (folder / file).write_text(json.dumps(values))
        if file != "config.json":
            trust(folder, file)
        try:
            storm.load_model(folder)
            n_loaded += 1
        except (ValueError, FileNotFoundError) as error:
            errors.append(error)
    assert n_loaded > 0
    assert len(errors) > 40
    for error in errors:
        assert re.search(r"\.json|safetensors|\.tsv|tile encoder|numbers a spot|the (model|head) in", str(error))
        assert "storm" in traceback.extract_tb(error.__traceback__)[-1].filename


def places(values):
    """Every place in nested dictionaries and lists: the holder, and the key or index."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield values, key
        if isinstance(value, dict | list):
            yield from places(value)

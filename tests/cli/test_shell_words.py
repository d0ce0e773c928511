"""Messages of functions in the words of the shell."""

from __future__ import annotations

import pytest

from storm.cli._shell_words import in_shell_words, options_of

OPTIONS = (
    "um_per_px",
    "image_key",
    "modality",
    "key_added",
    "library_key",
    "n_domains",
    "device",
    "genes",
    "image",
    "weights",
)


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("pass um_per_px= (µm per pixel)", "pass --um-per-px (µm per pixel)"),
        ("um_per_px=0.5 is used", "--um-per-px 0.5 is used"),
        ("image_key='b' is not in sdata.images", "--image-key b is not in sdata.images"),
        ("key_added='a b' cannot be stored", "--key-added 'a b' cannot be stored"),
        ("choose the H&E image with image_key= out of ['a']", "choose the H&E image with --image-key out of ['a']"),
        ("(modality='st' of storm.tl.embed reads none)", "(--modality st of storm embed reads none)"),
        ("choose another key_added, or remove", "choose another --key-added, or remove"),
        ("genes=['A', 'B'] are", "--genes A B are"),
        ("run storm.tl.embed first", "run storm embed first"),
        ("embed them together: storm.tl.embed([...])", "embed them together: storm embed --joint STORE STORE"),
        ("or image=False to read without one", "or --no-image to read without one"),
        ("give each its own: image={'A': …}", "give each its own: --image A=…"),
        ("of several libraries um_per_px={'A b': …})", "of several libraries --um-per-px 'A b'=…)"),
        (
            "or (2) give the folder of a copy, weights='PATH'; or",
            "or (2) give the folder of a copy, --weights PATH; or",
        ),
        ("but x; storm.io.visium_hd reads outs", "but x; storm read visium_hd reads outs"),
        # what is Python stays Python
        ("say it with storm.pp.set_scale(data, um_per_px=...)", "say it with storm.pp.set_scale(data, um_per_px=...)"),
        ("storm.tl.adapt(sdata, model=None) fits one", "storm.tl.adapt(sdata, model=None) fits one"),
        ("sdata.images['he'] = a.b(x, n=0)", "sdata.images['he'] = a.b(x, n=0)"),
        ("obs['library_key'] holds", "obs['library_key'] holds"),
        ("/data/key_added/genes=1.zarr is damaged", "/data/key_added/genes=1.zarr is damaged"),
        ("name it with image_key={'A': image}", "name it with image_key={'A': image}"),
        # what the command has no option for, too
        ("shapes_key= is needed", "shapes_key= is needed"),
        ("the device was lost", "the device was lost"),
    ],
)
def test_in_shell_words(python, shell):
    assert in_shell_words(python, OPTIONS) == shell
    assert in_shell_words(shell, OPTIONS) == shell


def test_options_of():
    assert options_of({"command": "embed", "paths": [], "um_per_px": None}) == {"um_per_px"}


def test_time_left():
    from storm.cli._many import time_left

    assert time_left(30, 1, 2) == ""
    assert time_left(120, 1, 4) == ", about 6 min left"
    assert time_left(7200, 2, 4) == ", about 2.0 h left"
    assert time_left(7200, 4, 4) == ""

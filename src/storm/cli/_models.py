"""``storm models``: the packaged models and the known tile encoders."""

from __future__ import annotations

import storm


def models() -> None:
    """``storm models``.

    Raises
    ------
    FileNotFoundError
        If the installation has no packaged model.
    """
    from storm._loading import list_models

    names = list_models()
    if not names:
        msg = "no model is packaged with this installation; install storm-spatial again"
        raise FileNotFoundError(msg)
    for name in names:
        _print_model(name)
    _print_encoders()


def _print_model(name: str) -> None:
    model = storm.load_model(name)
    config = model.config
    parameters = sum(p.numel() for p in model.network.parameters()) / 1e6
    predicted = 0 if model.head is None else len(model.head.genes)
    print(name)
    print(f"  network      {parameters:.1f} M parameters, {config.depth} blocks of width {config.width}")
    print(f"  H&E          {model.tile_encoder.name}, fields of {model.tile_encoder.field_um:g} µm")
    vocabulary = getattr(model.expression, "vocabulary", None)
    reads = "" if vocabulary is None else f", reads {len(vocabulary)} genes"
    print(f"  expression   {model.expression.name}{reads}; predicts {predicted} genes from H&E")
    print(f"  sha256       {model.sha256}")
    for key, value in model.card.items():
        if isinstance(value, str | int | float):
            print(f"  {key:<12} {value}")


def _print_encoders() -> None:
    """Print the table of tile encoders."""
    table = storm.encoders.list()
    shown = table[["dim", "tile_px", "field_um", "native_um_per_px", "pooling", "gflop", "licence"]].copy()
    parameters = table["n_parameters"]
    millions = [f"{n / 1e6:.1f} M" if ok else "" for n, ok in zip(parameters, parameters.notna(), strict=True)]
    shown.insert(5, "parameters", millions)
    shown[""] = ["gated" if gated else "" for gated in table["gated"]]
    shown.index.name = None
    print("\ntile encoders (and any model of timm, as timm:<model>); only STORM's own has weights in this package")
    print(shown.rename(columns={"native_um_per_px": "µm/px"}).to_string(na_rep="", float_format="{:g}".format))

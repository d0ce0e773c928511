"""Draw the figure of the documentation's start page, docs/_static/start.png, from a drawn section (ten seconds)."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import storm

OUT = Path(__file__).resolve().parents[1] / "docs" / "_static" / "start.png"
GENE = "CD36"


def main() -> None:
    """Draw the figure and store it."""
    mpl.use("Agg")
    storm.settings.verbosity = 0
    sdata = storm.datasets.toy()
    storm.tl.embed(sdata)
    storm.tl.domains(sdata, 5)
    train, _ = storm.pp.split_along_x(sdata)
    head = storm.tl.fit_expression(sdata, train=train)
    storm.tl.predict_expression(sdata, head=head)

    figure, axes = plt.subplots(1, 4, figsize=(10.4, 2.8), layout="constrained", dpi=140)
    storm.pl.domains(sdata, ax=axes[1], legend=False, title="domains", image_alpha=0.3, size=1.3)
    storm.pl.expression(sdata, GENE, axes=np.array([axes[0], axes[2], axes[3]]), size=1.3)
    axes[2].set_title(f"{GENE}, measured", fontsize=axes[1].title.get_fontsize())
    axes[3].set_title(f"{GENE}, predicted from H&E", fontsize=axes[1].title.get_fontsize())
    for ax in axes:
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
    figure.savefig(OUT)
    # a palette of 256 colours is a third of the size, and looks the same
    Image.open(OUT).convert("RGB").quantize(256).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

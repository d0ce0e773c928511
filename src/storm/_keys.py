"""Every key that STORM writes into an object, in one place (tabulated for users in ``docs/outputs.md``)."""

from __future__ import annotations

#: ``uns[UNS][key]`` holds the provenance of everything that STORM wrote under ``key``.
UNS = "storm"

#: Default ``obsm`` key of :func:`storm.tl.embed`.
X_STORM = "X_storm"

#: Endings of the parts of an embedding that ``per_modality=True`` writes beside it.
MODALITY_ENDINGS = ("_he", "_st")

#: Default ``obs`` key of :func:`storm.tl.domains`.
DOMAIN = "storm_domain"

#: Default ``layers`` key of :func:`storm.tl.predict_expression`, and suffix of the table it may create.
EXPRESSION = "storm"

#: Default keys: what is stored under them is STORM's own, also where its provenance was lost on the way.
DEFAULTS = (X_STORM, DOMAIN, EXPRESSION)

#: Default ``uns`` key of :func:`storm.tl.rank_domain_genes`: the one that scanpy's functions read.
RANKED_GENES = "rank_genes_groups"

#: Default ``uns[UNS]`` key of :func:`storm.tl.enrich`.
ENRICHMENT = "enrichment"

#: Default ``obsm`` key of :func:`storm.tl.composition`.
X_COMPOSITION = "X_composition"

#: Default ``uns[UNS]`` key of :func:`storm.tl.domain_stability`.
STABILITY = "domain_stability"

#: Default ``obs`` key of :func:`storm.tl.signature`.
SIGNATURE = "storm_signature"

#: Default ``obs`` key of :func:`storm.prognosis.write_explanation`.
RISK = "storm_risk"

#: Default ``layers`` key of :func:`storm.pp.sum_windows`.
WINDOW_COUNTS = "window_counts"

#: Key of the data frame in an entry of ``uns[UNS]`` whose result is one.
TABLE = "table"

#: In the entry of ``uns[UNS]`` of a result that is no column: the function that wrote it, and may write it again.
MADE_BY = "made_by"

#: ``uns[UNS][CHECK]`` holds the report of :func:`storm.pp.check`, if it was asked for.
CHECK = "check"

#: ``uns[UNS][REMEMBERED]`` holds what calls were told of an object: its table, image, coordinate system, sections.
REMEMBERED = "remembered"

#: ``obs`` column with the scale that a call was told: µm per unit of the coordinates in which a row's place is stored.
UM_PER_UNIT = "storm_um_per_unit"

#: Shapes and table of the tile grid made for an image without spots.
TILES = "storm_tiles"
TILES_TABLE = "tiles"

#: ``attrs[READ]`` says what a reader of :mod:`storm.io` read, and where its µm per pixel come from.
READ = "storm_io"

#: Names under which a coordinate system is taken to be in micrometres.
UM_SYSTEMS = ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres")


def storable(name: str) -> str:
    """A name in the characters that SpatialData stores: others become ``"_"``."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in name)


def tiles_key(encoder: str) -> str:
    """Default ``obsm`` key of :func:`storm.tl.encode_tiles`."""
    return f"X_{storable(encoder)}"


#: Endings of what :func:`storm.tl.predict_expression` writes for a key beside the prediction: columns of ``var`` with a
#: gene's held-out r, its lowest in a section, the sections and patients behind it and the offsets of its interval; the
#: column of ``obs`` with how usual a tile is; and the layers with the limits of the interval.
VAR_ENDINGS = ("_r", "_r_min", "_n_sections", "_n_patients", "_reliable", "_lo", "_hi")
OBS_ENDINGS, LIMIT_ENDINGS = ("_ood_p",), ("_lower", "_upper")


def reliability(key_added: str = EXPRESSION) -> str:
    """``var`` column with the held-out Pearson correlation of the genes that are predicted under a key."""
    return f"{key_added}_r"


def adjacency(key: str = DOMAIN) -> str:
    """``uns[UNS]`` key of the contacts between the domains of a column, see :func:`storm.tl.adjacent_domains`."""
    return f"{key}_adjacency"


def unusual(key_added: str = EXPRESSION) -> str:
    """``obs`` column that tells how usual a spot's tile is among those of the training of a prediction's head."""
    return f"{key_added}{OBS_ENDINGS[0]}"


def predicted_table(table_key: str, key_added: str = EXPRESSION) -> str:
    """Name of the table that holds genes which ``table_key`` does not measure."""
    return f"{table_key}_{key_added}"

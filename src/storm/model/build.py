"""Named sizes of the network."""

from __future__ import annotations

from typing import Any

from storm._checks import check_choice
from storm.model.config import StormConfig
from storm.model.storm import Storm

#: ``tiny`` is for tests, ``mini`` is the packaged one, ``base`` has the paper's encoders (H0-mini and Novae).
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "he_dim": 16, "st_dim": 8, "width": 32, "depth": 2, "heads": 4,
        "decoder_width": 32, "decoder_depth": 2, "decoder_heads": 4,
    },
    "mini": {
        "he_dim": 89, "st_dim": 64, "width": 128, "depth": 2, "heads": 4, "mlp_ratio": 2.0, "dropout": 0.1,
        "decoder_width": 128, "decoder_depth": 2, "decoder_heads": 4,
    },
    "base": {
        "he_dim": 768, "st_dim": 64, "width": 768, "depth": 6, "heads": 12,
        "decoder_width": 512, "decoder_depth": 2, "decoder_heads": 8,
    },
}  # fmt: skip


def build_storm(size: str = "base", **changes: Any) -> Storm:
    """A network of a named size with random weights.

    Parameters
    ----------
    size
        ``"tiny"``, ``"mini"`` or ``"base"``.
    **changes
        Fields of :class:`~storm.model.StormConfig` to set differently.

    Returns
    -------
    Storm

    Raises
    ------
    TypeError, ValueError
        If the size or a field is unknown, or a field has an impossible value.

    Examples
    --------
    >>> import storm
    >>> network = storm.model.build_storm("base", depth=2)
    >>> network.config.width, network.config.depth
    (768, 2)
    """
    check_choice(size, SIZES, name="size")
    return Storm(StormConfig.from_dict({**SIZES[size], **changes}))

"""``storm.datasets.toy_cohort``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from storm._bridge.cohort import Cohort
from storm._bridge.cohort_features import TileFeatures
from storm._bridge.cohort_writing import make_cohort
from storm._checks import check_between, check_choice, check_mapping, check_whole

#: Log hazard per standard deviation of what is planted.
EFFECTS = {"harmful": 0.85, "protective": -0.85, "programme": 0.85, "site": 0.0}
#: Kinds of tiles. The share of the first raises the hazard, that of the second lowers it.
TYPES = ("harmful", "protective", "stroma", "fat", "immune", "necrosis")
#: Dimensions of the H&E embedding, genes, and genes whose level in a patient changes the hazard.
HE_DIM, N_GENES, N_PROGRAMME = 64, 50, 5
#: Share of the patients who die of the disease while they are followed.
EVENTS = 0.57
#: Edge of a tile in µm.
_FIELD_UM = 112.0
#: Standard deviations: of types from each other, of patients, of tiles.
_TYPE, _PATIENT, _TILE = 0.6, 0.25, 1.0


@dataclass(frozen=True, kw_only=True)
class _World:
    """What all patients have in common: how each type looks, what it expresses, and how sites stain."""

    he: np.ndarray
    st: np.ndarray
    stain: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, *, sites: int, stain_shift: float) -> _World:
        return cls(
            he=rng.normal(0, _TYPE, (len(TYPES), HE_DIM)),
            st=np.abs(rng.normal(1.5, 0.7, N_GENES)) + rng.normal(0, 0.5, (len(TYPES), N_GENES)),
            stain=rng.normal(0, stain_shift, (sites, HE_DIM)),
        )


def toy_cohort(
    folder: str | Path,
    *,
    n_patients: int = 100,
    seed: int = 0,
    effects: Mapping[str, float] | None = None,
    sites: int = 5,
    stain_shift: float = 0.5,
    n_tiles: tuple[int, int] = (200, 800),
) -> Cohort:
    """Make a cohort of drawn tiles with a planted hazard.

    Each patient's tiles are of six types in shares of their own. The log hazard of a patient is the sum of planted
    levels, each with a mean of 0 and a standard deviation of 1 over the patients, times their effects. Nothing else of
    the tiles tells it: there is no pairing of types and genes.

    Parameters
    ----------
    folder
        Folder to make.
    n_patients
        Number of patients; a fifth of them have two slides.
    seed
        Random seed.
    effects
        Log hazard per standard deviation, of

        - ``"harmful"`` and ``"protective"``: the share of tiles of that type (of its logarithm), seen in H&E and in
          expression,
        - ``"programme"``: the level of the genes ``prog0`` to ``prog4``, seen in expression only,
        - ``"site"``: the site. Tiles show it by their stain, so that a model that has seen patients of a site knows its
          hazard, which is worth nothing at another site.

        By default 0.85, −0.85, 0.85 and 0; what is not named is 0 where ``effects`` is given. ``{}`` is a cohort
        without any signal.
    sites
        Number of sites.
    stain_shift
        Standard deviation of the shift that a site's stain gives each dimension of the H&E embedding; that of a tile
        around its type is 1.
    n_tiles
        Least and largest number of tiles of a patient.

    Returns
    -------
    Cohort
        ``patients`` has ``DSS_time``, ``DSS_event`` (about 57 % events), ``OS_time`` and ``OS_event`` (with deaths of
        other causes, which are censored in DSS), ``response``, ``site``, ``stage``, ``age``, ``sex``, the planted log
        hazard ``oracle`` and the levels ``level_harmful``, ``level_protective``, ``level_programme`` and
        ``level_site``. Times are in days. Each slide has 64 H&E dimensions, 50 genes, and, as
        ``cohort.features(slide)["type"]``, the position of each tile's type in ``cohort.facts["types"]``.

    Raises
    ------
    FileExistsError
        If there is a cohort in the folder.
    TypeError
        If ``effects`` is no dictionary, or ``n_tiles`` no pair.
    ValueError
        If a number is out of range, or an effect is not known.

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=20, n_tiles=(20, 40))
    >>> cohort.patients.shape[0], cohort.modalities
    (20, ('he', 'st'))
    """
    check_whole(n_patients, name="n_patients", least=10)
    check_whole(seed, name="seed", least=0)
    check_whole(sites, name="sites")
    check_between(stain_shift, name="stain_shift", low=0, high=float("inf"))
    if not isinstance(n_tiles, tuple | list) or len(n_tiles) != 2:
        msg = f"n_tiles={n_tiles!r} is not the least and the largest number of tiles of a patient; give (200, 800)"
        raise TypeError(msg)
    low = check_whole(n_tiles[0], name="n_tiles[0]", least=len(TYPES))
    high = check_whole(n_tiles[1], name="n_tiles[1]", least=low)
    planted = EFFECTS if effects is None else _effects(effects)
    rng = np.random.default_rng(seed)
    world = _World.draw(rng, sites=sites, stain_shift=stain_shift)
    shares = rng.dirichlet(np.full(len(TYPES), 1.5), n_patients)
    site = rng.integers(sites, size=n_patients)
    programme = rng.normal(size=n_patients)
    levels = {
        "harmful": np.log(shares[:, 0] + 0.02),
        "protective": np.log(shares[:, 1] + 0.02),
        "programme": programme,
        "site": rng.permutation(sites)[site].astype(float),
    }
    levels = {name: _standardised(values) for name, values in levels.items()}
    oracle = np.sum([planted[name] * values for name, values in levels.items()], axis=0)
    names = [f"P{k:04d}" for k in range(n_patients)]
    patients = _clinic(oracle, rng).set_axis(names).assign(site=[f"S{k}" for k in site], oracle=oracle)
    patients = patients.assign(**{f"level_{name}": values for name, values in levels.items()})
    genes = [*(f"prog{k}" for k in range(N_PROGRAMME)), *(f"gene{k}" for k in range(N_GENES - N_PROGRAMME))]
    counts = rng.integers(low, high + 1, n_patients)
    made: dict[str, tuple[str, TileFeatures]] = {}
    for k, name in enumerate(names):
        shift = rng.normal(0, _PATIENT, HE_DIM) + world.stain[site[k]]
        expressed = rng.normal(0, _PATIENT, N_GENES)
        expressed[:N_PROGRAMME] += 0.6 * levels["programme"][k]
        for label, n in zip("AB", _parts(int(counts[k]), 1 + (k % 5 == 0)), strict=False):
            xy_um, types = _tissue(rng, n, shares[k])
            st = world.st[types] + expressed + rng.normal(0, _TILE / 2, (n, N_GENES))
            made[f"{name}-{label}"] = (
                name,
                TileFeatures(
                    he=(world.he[types] + shift + rng.normal(0, _TILE, (n, HE_DIM))).astype(np.float16),
                    st=np.maximum(st, 0).astype(np.float16),
                    xy_um=xy_um.astype(np.float32),
                    per_tile={"type": types.astype(np.int8)},
                ),
            )
    facts = {"made_by": "storm.datasets.toy_cohort", "seed": seed, "types": list(TYPES)}
    return make_cohort(folder, patients=patients, made=made, genes=genes, facts=facts)


def _effects(effects: Mapping[str, float]) -> dict[str, float]:
    check_mapping(effects, name="effects", example='{"harmful": 0.85}')
    for name, value in effects.items():
        check_choice(name, EFFECTS, name="effects")
        check_between(value, name=f"effects[{name!r}]", low=-float("inf"), high=float("inf"))
    return dict.fromkeys(EFFECTS, 0.0) | dict(effects)


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


def _parts(n: int, k: int) -> list[int]:
    return [n // k + (i < n % k) for i in range(k)]


def _clinic(oracle: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Follow-up and covariates. Time to death is Weibull; the end of follow-up is scaled to the share of events."""
    n = len(oracle)
    death = 1500 * (rng.exponential(size=n) * np.exp(-oracle)) ** (1 / 1.2)
    other = rng.exponential(15_000, n)
    leaving = rng.uniform(0.3, 1.7, n)
    scale = np.quantile(np.where(death <= other, death / leaving, np.inf), EVENTS, method="inverted_cdf")
    if not np.isfinite(scale):  # too few die of the disease at all: everybody is followed to the end
        scale = death.max() / leaving.min()
    end = np.minimum(leaving * scale, other)
    time = np.minimum(death, end)
    dead = death <= end
    stage = np.digitize(_standardised(oracle) + rng.normal(0, 1, n), [-0.8, 0.3, 1.2])
    return pd.DataFrame(
        {
            "DSS_time": np.maximum(np.round(time, 1), 1.0),
            "DSS_event": dead,
            "OS_time": np.maximum(np.round(time, 1), 1.0),
            "OS_event": dead | (other <= np.minimum(death, leaving * scale)),
            "response": rng.random(n) < 1 / (1 + np.exp(1.5 * oracle)),
            "stage": np.array(["I", "II", "III", "IV"])[stage],
            "age": np.clip(np.round(rng.normal(62, 11, n)), 25, 90),
            "sex": np.where(rng.random(n) < 0.5, "female", "male"),
        }
    )


def _tissue(rng: np.random.Generator, n: int, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of n tiles on a lattice within a round piece of tissue, and their types, which lie in patches."""
    half = int(np.ceil(np.sqrt(n / np.pi))) + 1
    lattice = np.stack(np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1)), axis=-1).reshape(-1, 2)
    lattice = lattice[np.argsort(np.hypot(*lattice.T), kind="stable")[:n]].astype(float)
    counts = rng.multinomial(n, shares)
    types = np.full(n, -1)
    for kind in rng.permutation(len(shares)):
        waves, phases = rng.normal(0, 0.35, (4, 2)), rng.uniform(0, 2 * np.pi, 4)
        field = np.cos(lattice @ waves.T + phases).sum(axis=1)
        free = np.flatnonzero(types < 0)
        types[free[np.argsort(-field[free], kind="stable")[: counts[kind]]]] = kind
    return (lattice + half + 0.5) * _FIELD_UM, types

"""Public files: from a mirror folder if one is given, else by URL; verified by their sha256."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import file_digest
from importlib.resources import files
from pathlib import Path

from storm._files import replacing
from storm._logging import logger
from storm._settings import settings

#: Seconds to wait for a connection, and for data.
_TIMEOUT = (10, 120)


@dataclass(frozen=True)
class PublicFiles:
    """Files of a public data set.

    Attributes
    ----------
    name
        Name of the data set, and of its folder in a mirror.
    marker
        A folder or file that the root of every mirror holds.
    mirror
        Root of the mirror, or ``None``.
    registry
        sha256 of every file that can be downloaded, by its path.
    url
        Function from a file's path to its address, or ``None`` if nothing can be downloaded.
    """

    name: str
    marker: str
    mirror: Path | None
    registry: dict[str, str] = field(default_factory=dict)
    url: Callable[[str], str] | None = None

    @classmethod
    def open(
        cls,
        name: str,
        *,
        marker: str,
        path: str | Path | None,
        registry: dict[str, str] | None = None,
        url: Callable[[str], str] | None = None,
    ) -> PublicFiles:
        """Find the mirror: ``path``, which must be one, or ``settings.data_dir`` if it is one.

        Raises
        ------
        FileNotFoundError
            If ``path`` is given and is not a mirror.
        """
        mirror = None
        for given in (path, None if path is not None else settings.data_dir):
            if given is None:
                continue
            base = Path(given).expanduser()
            # the folder itself, its parent, or a clone of the repository
            mirror = next((p for p in (base, base / name, base / "data") if (p / marker).exists()), None)
        if path is not None and mirror is None:
            msg = f"path={str(path)!r} is not a mirror of {name}: neither it nor its folder {name!r} holds {marker!r}"
            raise FileNotFoundError(msg)
        return cls(name, marker, mirror, registry or {}, url)

    def local(self, pattern: str) -> list[str]:
        """Paths, relative to the mirror's root, of its files that match a glob pattern; sorted."""
        if self.mirror is None:
            return []
        return [path.relative_to(self.mirror).as_posix() for path in sorted(self.mirror.glob(pattern))]

    def get(self, file: str) -> Path:
        """Local path of a file; it is downloaded if the mirror does not hold it.

        A file with a known sha256 is verified, in a mirror as after a download.

        Raises
        ------
        FileNotFoundError
            If the mirror does not hold the file and it cannot be downloaded.
        ValueError
            If the file is not the published one.
        """
        hint = f"point storm.settings.data_dir (or STORM_DATA_DIR, or path=) to a folder that holds {self.name}/{file}"
        if self.mirror is not None and (self.mirror / file).is_file():
            self._verify(self.mirror / file, file)
            return self.mirror / file
        if self.url is None or file not in self.registry:
            msg = f"{self.name}: {file} is not in {self.mirror or 'a mirror'} and cannot be downloaded; {hint}"
            raise FileNotFoundError(msg)
        import pooch

        folder = settings.cache_dir or Path(pooch.os_cache("storm"))
        address = self.url(file)
        logger.info("fetching %s", address)
        try:
            fetched = pooch.retrieve(
                address,
                known_hash=f"sha256:{self.registry[file]}",
                fname=file,
                path=Path(folder) / self.name,
                downloader=pooch.HTTPDownloader(timeout=_TIMEOUT, progressbar=False),
            )
        except OSError as error:
            msg = f"{self.name}: {address} could not be fetched ({type(error).__name__}); offline, {hint}"
            raise FileNotFoundError(msg) from error
        return Path(fetched)

    def _verify(self, path: Path, file: str) -> None:
        """Raise if the sha256 of a file is known and differs."""
        wanted = self.registry.get(file)
        if wanted is None:
            return
        digest = _digest(path)
        if digest != wanted:
            msg = (
                f"{path} is not the published file: its sha256 is {digest}, not {wanted}. It is damaged, or was "
                f"changed; remove it from the mirror to have it downloaded, or copy it again"
            )
            raise ValueError(msg)


def fetch_trusted(
    name: str,
    file: str,
    address: str,
    *,
    sha256: str | None,
    check: Callable[[Path], object],
    hint: str,
) -> Path:
    """Local path of a file of which no checksum is published: the first download is trusted, and held to from then on.

    Parameters
    ----------
    name
        Folder of the cache.
    file
        Name of the file there; its sha256 lies beside it.
    address
        Where it is fetched from, unless it was before.
    sha256
        What the user wants it to be.
    check
        Raises a ValueError on a file that is not of the right kind, such as an error page; it is not kept then.
    hint
        What to do offline.

    Raises
    ------
    FileNotFoundError
        If it cannot be fetched.
    ValueError
        If it is not of the right kind, not what was fetched first, or not what the user wants.
    """
    import pooch

    folder = Path(settings.cache_dir or pooch.os_cache("storm")) / name
    target, record = folder / file, folder / f"{file}.sha256"
    if target.is_file() and record.is_file():
        check_sha256(target, record.read_text(encoding="ascii").split()[0], what="what was fetched first")
        check_sha256(target, sha256)
        return target
    target.unlink(missing_ok=True)
    logger.info("fetching %s", address)
    try:
        pooch.retrieve(
            address,
            known_hash=None,
            fname=file,
            path=folder,
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT, progressbar=False),
        )
    except OSError as error:
        msg = f"{address} could not be fetched ({type(error).__name__}); offline, {hint}"
        raise FileNotFoundError(msg) from error
    try:
        check(target)
        check_sha256(target, sha256)
    except ValueError:
        target.unlink()
        raise
    digest = _digest(target)
    with replacing(record) as scratch:
        scratch.write_text(f"{digest}  {file}\n", encoding="ascii")
    logger.info("%s has the sha256 %s, by which it is verified from now on", file, digest)
    return target


def check_sha256(path: Path, wanted: str | None, *, what: str = "what sha256= says") -> None:
    """Raise a ValueError if a file has another sha256 than wanted; ``None`` wants none."""
    if wanted is not None and (digest := _digest(path)) != wanted.strip().lower():
        msg = f"{path} is not {what}: its sha256 is {digest}, not {wanted}; remove it to have it fetched again"
        raise ValueError(msg)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def read_registry(name: str) -> dict[str, str]:
    """sha256 of files, from the package's list."""
    lines = (files("storm.datasets") / f"{name}.sha256").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {file: digest for digest, file in pairs}

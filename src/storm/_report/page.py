"""A page of HTML that needs nothing else: elements whose text is always escaped, one style, no script.

Text becomes part of a page through :func:`element` or :func:`table` only, which escape it; what is markup already is
:class:`Html`. The page forbids scripts and anything from a network besides (Content Security Policy).
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm import __version__
from storm._files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Elements without content.
_VOID = {"img", "meta", "br"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --soft: #5b6673; --line: #d9dfe5; --card: #f6f8fa; --paper: #fff;
  --link: #0b5fa5; --fail: #b00020; --warn: #8a4b00; --ok: #1b6e3c; --info: #4a5563; --bar: #7aa6cc }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --soft: #a3adb8; --line: #3a434d; --card: #20272e;
  --paper: #14191e; --link: #7db8ee; --fail: #ff8a93; --warn: #f0b35e; --ok: #6fcf97; --info: #b4bdc7;
  --bar: #3f6c94 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 76rem; margin: 0 auto; padding: 1.5rem 2rem 3rem }
header { border-bottom: 3px solid var(--link); margin-bottom: 1.5rem; padding-bottom: .8rem }
.eyebrow { color: var(--link); font-weight: 600; letter-spacing: .04em; margin: 0 }
h1 { font-size: 1.9rem; line-height: 1.25; margin: .1rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 0 0 .4rem; overflow-wrap: anywhere }
p { margin: .4rem 0 .8rem; max-width: 60rem } a { color: var(--link) } .soft { color: var(--soft) }
nav { font-size: .92rem; margin-bottom: 1rem } nav a { margin-right: 1.1rem; white-space: nowrap }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1rem 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; font-weight: 600; overflow-wrap: anywhere }
.tile span { color: var(--soft); font-size: .88rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(21rem, 1fr)); gap: 1rem; align-items: start }
.pair.text { grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)) }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20.5rem, 1fr)); gap: .9rem }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem; break-inside: avoid }
figure { margin: 0 0 1rem; background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: .6rem;
  break-inside: avoid; color: #1c2530 }
figure img { display: block; margin: 0 auto; max-width: 100%; height: auto; max-height: 40rem }
figure.large img { max-height: none }
figcaption { font-size: .88rem; color: #55606c; padding-top: .4rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 1rem; font-size: .93rem }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem }
th, td { border-bottom: 1px solid var(--line); padding: .32rem .8rem .32rem 0; text-align: left; vertical-align: top }
td, th { overflow-wrap: break-word } tbody th { font-weight: 600; min-width: 6rem }
thead th { color: var(--soft); font-weight: 600 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.card table { margin: 0; font-size: .88rem } .card td, .card th { padding-right: 0 } .gene { font-style: italic }
.card thead th { white-space: nowrap } .legend span { white-space: nowrap; margin-right: 1em }
.badge { display: inline-block; min-width: 3.2rem; text-align: center; border: 1.5px solid currentColor;
  border-radius: 1rem; padding: 0 .6rem; font-size: .82rem; font-weight: 700 }
.fail { color: var(--fail) } .warn { color: var(--warn) } .ok { color: var(--ok) } .info { color: var(--info) }
ul.notes { list-style: none; padding: 0; margin: .5rem 0 }
ul.notes li { border-left: 4px solid var(--line); padding: .3rem .9rem; margin: .5rem 0; background: var(--card) }
ul.notes li.warn { border-color: var(--warn) } ul.notes li.fail { border-color: var(--fail) }
ul.notes li > div { color: var(--ink) }
.swatch { display: inline-block; width: .95em; height: .95em; border-radius: .2em; border: 1px solid #8886;
  vertical-align: -.12em; margin-right: .45em; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.bar { display: inline-block; height: .7em; background: var(--bar); border-radius: .15em; margin-left: .5em;
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
code { font: .9em ui-monospace, "SFMono-Regular", Consolas, monospace; background: var(--card); padding: .1em .35em;
  border-radius: .25em; overflow-wrap: anywhere }
td img { display: block; width: 9rem; height: 9rem; object-fit: contain; background: #fff; border-radius: .3rem }
footer { color: var(--soft); font-size: .88rem; border-top: 1px solid var(--line); margin-top: 3rem;
  padding-top: .8rem }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --card: #f4f4f4; --paper: #fff;
  --link: #0b5fa5; --fail: #b00020; --warn: #8a4b00; --ok: #1b6e3c; --info: #444; --bar: #7aa6cc }
  body { max-width: none; padding: 0; font-size: 10.5pt } nav { display: none } h2 { break-after: avoid }
  .pair { grid-template-columns: 1fr 1fr } tr { break-inside: avoid } a { color: inherit; text-decoration: none } }
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Html(str):
    """Markup: text that is not escaped again."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Anything as text, in a form that no place of a page takes for markup; markup stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(str(text), quote=True))


def join(parts: Iterable[object], by: str = "") -> Html:
    """Parts one after the other, each escaped unless it is markup."""
    return Html(escape(by).join(escape(part) for part in parts))


def element(name: str, /, *content: object, **attributes: object) -> Html:
    """An element of a page.

    Parameters
    ----------
    name
        Name of the element, which is ours.
    *content
        Text, which is escaped, and markup.
    **attributes
        Values are escaped; ``None`` leaves an attribute out, and an underscore at the end of a name is dropped
        (``class_``).

    Returns
    -------
    Html
    """
    pairs = [f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items() if value is not None]
    start = f"<{name}{''.join(pairs)}>"
    return Html(start if name in _VOID else f"{start}{join(content)}</{name}>")


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str | None = None,
    numbers: Iterable[int] = (),
    row_headers: bool = True,
) -> Html:
    """A table, with its first column as the headers of its rows.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        Text or markup of each cell.
    caption
        What the table is of.
    numbers
        Columns that are set to the right.
    row_headers
        Whether the first column names the rows.
    """
    right = set(numbers)

    def cell(number: int, content: object, *, column: bool = False) -> Html:
        kind = "number" if number in right else None
        if column:
            return element("th", content, scope="col", class_=kind)
        if number == 0 and row_headers:
            return element("th", content, scope="row", class_=kind)
        return element("td", content, class_=kind)

    top = element("thead", element("tr", *(cell(k, name, column=True) for k, name in enumerate(head))))
    body = element("tbody", *(element("tr", *(cell(k, one) for k, one in enumerate(row))) for row in rows))
    title = "" if caption is None else element("caption", caption)
    return element("div", element("table", title, top, body), class_="wide")


def data_uri(content: bytes, kind: str) -> str:
    """A picture (``"png"`` or ``"jpeg"``) as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(
    drawn: Figure, *, alt: str, caption: object = None, photo: bool = False, large: bool = False, dpi: int = 130
) -> Html:
    """A figure of matplotlib, which is closed; photographs are stored as JPEG, and a large one keeps its size."""
    content = rendered(drawn, photo=photo, dpi=dpi)
    picture = element("img", alt=alt, src=data_uri(content, "jpeg" if photo else "png"))
    below = "" if caption is None else element("figcaption", caption)
    return element("figure", picture, below, class_="large" if large else None)


def rendered(drawn: Figure, *, photo: bool, dpi: int) -> bytes:
    """The pixels of a figure as the content of a file; the figure is closed."""
    import matplotlib.pyplot as plt

    options: dict[str, Any] = {"format": "jpeg", "pil_kwargs": {"quality": 88}} if photo else {"format": "png"}
    with io.BytesIO() as file:
        drawn.savefig(file, dpi=dpi, bbox_inches="tight", facecolor="white", **options)
        content = file.getvalue()
    plt.close(drawn)
    return content


def write_page(path: Path, *body: object, title: str, footer: object) -> None:
    """Write a page, whole or not at all.

    Parameters
    ----------
    path
        File to write; missing folders are made.
    *body
        Text, which is escaped, and markup.
    title
        Title of the window.
    footer
        Last line; the version of STORM stands before it.
    """
    foot = element("footer", "STORM ", __version__, ". ", footer)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        Html(f"<style>{_STYLE}</style>"),
    )
    page = Html("<!doctype html>\n") + element("html", head, element("body", *body, foot), lang="en") + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        scratch.write_text(page, encoding="utf-8")

"""Pages: one file of HTML each, with all that it shows in it, and nothing taken from elsewhere.

Templates are filled by Jinja, which escapes whatever it is given: names of files and settings are
text and never become markup. Only charts, which ``Charts`` has made, go in as they are.
"""

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from transreid_ssl.files import atomic_path
from transreid_ssl.logs import RUN
from transreid_ssl.report.names import decimal, in_lines, keep_options
from transreid_ssl.words import counted

PAGE = "report.html"
"""The page in the folder of a run."""
_TILE = (128, 64)  # height, width at which images of persons are kept
_QUALITY = 82


@functools.cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("transreid_ssl.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.globals.update(counted=counted)
    found.filters.update(
        number=number, decimal=decimal, in_lines=in_lines, keep_options=keep_options, who=who
    )
    return found


def write_page(path: str | Path, template: str, **content: Any) -> Path:
    """Fill a template and write the page, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    script = _templates().loader.get_source(_templates(), "page.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _templates().get_template(template).render(
        # No other script runs in the page, and nothing is fetched, whatever stands in it.
        script=Markup(script), script_hash=f"sha256-{digest}",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), **content,
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_or_warn(make: Callable[[], Path]) -> None:
    """Call what makes a page, and tell where it is.

    A page is not worth what it tells of: whatever goes wrong is one line of warning.
    """
    try:
        RUN.info(f"page: {make()}")
    except Exception as error:
        RUN.debug("no page", exc_info=True)
        said = " ".join(str(error).split()) or type(error).__name__
        RUN.warning(f"warning: no page was written ({said})")


def data_uri(image: np.ndarray, size: tuple[int, int] | None = _TILE) -> str:
    """An image uint8 (H, W, 3) RGB as a JPEG within an address, resized to ``size`` if given."""
    if size is not None:
        method = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_CUBIC
        image = cv2.resize(image, size[::-1], interpolation=method)
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}"


def number(value: Any) -> str:
    """A value for people: floats with four digits, lists with commas between, null as a dash."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value)) or "(none)"
    return str(value)


def who(tile: Mapping[str, Any]) -> str:
    """The person, camera and track of an image, as far as ``findings.tile`` knows them."""
    said = []
    if "identity" in tile:
        known = tile["identity"] is not None
        said.append(f"person {tile['identity']}" if known else "nobody's")
    camera = str(tile.get("camera", ""))
    if camera:
        said.append(camera if camera.lower().startswith("cam") else f"camera {camera}")
    if track := tile.get("track"):  # is named after its video, which may be named after the camera
        said.append(f"track {track.removeprefix(f'{camera}/')}")
    return ", ".join(said)

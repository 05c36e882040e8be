"""Generated people as a pool and as a labelled protocol."""

import dataclasses
from functools import cached_property

import cv2
import numpy as np

from transreid_ssl.data.index import Names
from transreid_ssl.data.people.config import TEST_OFFSET, PeopleConfig
from transreid_ssl.data.people.render import camera_of, image_name, junk_kind, render
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.reid import LabelledImages, ReIDProtocol
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint
from transreid_ssl.words import counted

JPEG_QUALITY = 92


class PeoplePool(Pool):
    """Generated people as an unlabelled pool: images are drawn when they are read."""

    kind = "generated people"
    generated = True

    def __init__(self, config: PeopleConfig) -> None:
        self.config = config
        names = [
            image_name(config, config.first_identity + identity, image)
            for identity in range(config.identities)
            for image in range(config.images_per_identity)
        ]
        super().__init__(config.spec, Names.of(names))

    @classmethod
    def from_spec(cls, spec: str) -> "PeoplePool":
        """Open "demo" or "demo:key=value,…"; raises UserError for keys that do not exist."""
        return cls(PeopleConfig.from_spec(spec))

    def locate(self, index: int) -> tuple[int, int]:
        """(identity, image) of the image at ``index``."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        identity, image = divmod(index, self.config.images_per_identity)
        return self.config.first_identity + identity, image

    def labelled(self) -> LabelledImages:
        """The images with their identities, -1 for bad detections, and their cameras."""
        places = [self.locate(index) for index in range(len(self))]
        identities = [-1 if junk_kind(self.config, *place) else place[0] for place in places]
        cameras = [camera_of(self.config, *place) for place in places]
        return LabelledImages(self, np.array(identities), np.array(cameras))

    def read(self, index: int) -> bytes:
        """The image as JPEG bytes."""
        picture = render(self.config, *self.locate(index))
        encoding = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        return cv2.imencode(".jpg", picture[..., ::-1], encoding)[1].tobytes()

    def describe(self) -> str:
        """One line for people."""
        config = self.config
        return (
            f"generated people: {counted(config.identities, 'identity', 'identities')}, "
            f"{counted(len(self), 'image')} "
            f"(difficulty {config.difficulty}, style {config.style}, junk {config.junk:.0%})"
        )

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the specification as well: other seeds and styles reuse the same names."""
        return fingerprint([self.source, self.arrow_names().digest])


def people_protocol(config: PeopleConfig | str) -> ReIDProtocol:
    """A labelled protocol of generated people, without junk.

    Train holds the identities of the pool of the same configuration; query and gallery hold
    ``test_identities`` further ones, the query being the first image of each person and camera.

    Raises:
        UserError: too few images or cameras for a person to be found again by another camera.
    """
    if isinstance(config, str):
        config = PeopleConfig.from_spec(config)
    if config.images_per_identity < 4 or config.cameras < 2:
        raise UserError(
            f"{config.spec}: a protocol needs images=4 and cameras=2 or more, so that each "
            "person has a query and a gallery image in two cameras"
        )
    config = dataclasses.replace(config, junk=0.0)
    test_config = dataclasses.replace(
        config,
        identities=config.test_identities,
        first_identity=config.first_identity + TEST_OFFSET,
    )
    train, test = (PeoplePool(part).labelled() for part in (config, test_config))
    pairs = np.stack([test.identities, test.cameras], axis=1)
    first = np.unique(pairs, axis=0, return_index=True)[1]
    query = np.sort(first)
    gallery = np.setdiff1d(np.arange(len(test)), query)
    return ReIDProtocol("demo", train, test.subset(query), test.subset(gallery), "generated")

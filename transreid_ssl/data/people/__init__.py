"""Generated pedestrians: a pool and a labelled protocol that need no download.

Every picture is a pure function of (configuration, identity, image), so that nothing is stored and
any worker of any process draws the same bytes. Useful to try a recipe, to test it and to time it;
figures obtained on generated people say nothing about real cameras.
"""

from transreid_ssl.data.people.config import PeopleConfig
from transreid_ssl.data.people.pool import PeoplePool, people_protocol
from transreid_ssl.data.people.render import camera_of, image_name, junk_kind, render, sheet

__all__ = [
    "PeopleConfig",
    "PeoplePool",
    "camera_of",
    "image_name",
    "junk_kind",
    "people_protocol",
    "render",
    "sheet",
]

"""Fixtures that tests in more than one folder use."""

from tests.support.nats import nats_folder as nats_folder
from tests.support.nats import nats_server as nats_server

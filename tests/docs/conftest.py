"""One sandbox for all commands of a file of tests."""

import pytest


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    """Made once, in about ten seconds."""
    from sandbox import Sandbox

    from ctpa_vqgan.cli import workflows

    place = tmp_path_factory.mktemp("sandbox")
    with pytest.MonkeyPatch.context() as patch:
        made = Sandbox(place)
        patch.setattr(workflows, "SOURCE_TREE", made.root)  # whatever a command writes to the bundle stays in there
        yield made

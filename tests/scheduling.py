"""Which tests pytest-xdist gives to one worker together: those that share what is costly to make."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

from blockenc.backends import NAMES

# Modules with a fixture that trains or starts something for all of their tests.
WHOLE_MODULES = ("test_accuracy", "test_fast", "test_ray")
BACKEND = re.compile(rf"(?<=[\[-])({'|'.join(NAMES)})(/\w+)?(?=[\]-])")


def unit(test: str) -> str:
    """What all tests that belong together have in common, of a test's node ID.

    A test's runs on all backends belong together: the oracle is asked once. So do those of one build of the
    native check program, which two workers would wait for.
    """
    module, _, name = test.partition(".py::")
    module = module.rpartition("/")[2]
    if module in WHOLE_MODULES:
        return module
    if module == "test_native_checks" and (build := re.search(r"\[(\w+)", name)):
        return f"{module}-{build[1]}"
    return f"{module}::{BACKEND.sub('', name)}"


class Scheduling(LoadScopeScheduling):
    """Like --dist loadgroup, which is without effect under pytest 9.2 (pytest-xdist 3.8)."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)

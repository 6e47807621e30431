"""How tests are fuzzed: so many examples each, or what ``make fuzz`` asks for."""

import os

from hypothesis import HealthCheck, Phase, settings


def fuzzed(examples: int) -> settings:
    """A decorator beside ``given``: so many examples, MMEDGE_FUZZ where that is set."""
    return settings(
        max_examples=int(os.environ.get("MMEDGE_FUZZ", examples)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        # Explaining a failure traces every line of every example, which takes many times as long.
        phases=tuple(phase for phase in Phase if phase is not Phase.explain),
    )

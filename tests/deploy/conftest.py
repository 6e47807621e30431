"""The same small bundle as the runtime's tests have."""

from tests.bundles import bundle, made_bundle, sample

__all__ = ["bundle", "made_bundle", "sample"]

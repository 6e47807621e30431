"""The same small bundle as the runtime's tests have."""

from tests.runtime.conftest import bundle, made_bundle, sample

__all__ = ["bundle", "made_bundle", "sample"]

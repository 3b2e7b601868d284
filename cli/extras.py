"""What to say when a package of an extra is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from write_batcher.errors import ConfigurationError


@contextmanager
def needing(extras: str, what: str) -> Iterator[None]:
    """Import inside what needs the packages of `extras`, comma-separated. Raises `ConfigurationError`, a sentence that
    begins with `what`, when one is missing. A missing module of this package is no matter of extras.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("write_batcher"):
            raise
        raise ConfigurationError(
            f"{what} needs {error.name}: install it with `pip install 'write-batcher[{extras}]'`."
        ) from error

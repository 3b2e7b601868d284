"""What to say when a package of an extra is missing."""

from write_batcher.errors import ConfigurationError


def not_installed(error: ModuleNotFoundError, what: str, extras: str) -> ConfigurationError:
    """Return the error of a command that needs `extras`, comma-separated; `what` begins the sentence. Raises `error`
    itself when a module of this package is missing: then the installation is broken.
    """
    if (error.name or "").startswith("write_batcher"):
        raise error
    return ConfigurationError(f"{what} needs {error.name}: install it with `pip install 'write-batcher[{extras}]'`.")

"""The config files that come with the package."""

from pathlib import Path

# In a checkout it is a link to the folder configs beside the package.
CONFIGS = Path(__file__).resolve().parent / "configs"


def find_config(name: str | Path) -> Path:
    """Return the path of a config file.

    Args:
        name: of a file, or of one that comes with the package, such as "kgdet_R50.yaml" and
            "sample/kgdet_tiny.yaml". A file that stands under that name comes first.

    Raises:
        FileNotFoundError: there is neither.
    """
    for path in (Path(name), CONFIGS / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"config file {str(name)!r} does not exist")

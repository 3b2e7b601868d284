"""The source distribution: whoever has it can build, test and read as from a clone."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
OF_GIT = {".gitignore"}


def git(*arguments: str) -> list[str]:
    return subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_sdist_holds_every_tracked_file(tmp_path: Path) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no clone, so nothing tells what belongs to the sources")
    files = [
        name for name in git("ls-files", "--cached", "--others", "--exclude-standard") if (REPOSITORY / name).exists()
    ]
    copy = tmp_path / "copy"  # building writes beside the sources
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    [archive] = tmp_path.glob("write_batcher-*.tar.gz")
    with tarfile.open(archive) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    assert set(files) - packed == OF_GIT

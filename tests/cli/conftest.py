"""What tests of ``repsim contrasim`` stand on."""

from pathlib import Path

import pytest
from contrasim_commands import FILES, NETWORKS, QUICK, run, written


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five networks as array files, and a measure that was fitted on four of them."""
    folder = tmp_path_factory.mktemp("contrasim")
    for name, side in NETWORKS.items():
        written(side, folder / f"{name}.npz")
    done = run("contrasim", "fit", *(str(folder / name) for name in FILES), *QUICK, "--out", str(folder / "measure"))
    assert done.exit_code == 0, done.output
    (folder / "said.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def here(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own that has the networks and the measure in it."""
    for one in work.iterdir():
        (tmp_path / one.name).symlink_to(one)
    monkeypatch.chdir(tmp_path)
    return tmp_path

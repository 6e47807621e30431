"""The example notebooks: no output in git, and every cell runs."""

import json
import os

import pytest

from tests.conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "recipes" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_kept_without_outputs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_every_cell_of_a_notebook_runs(notebook, tmp_path, monkeypatch):
    """Slow; CI runs it with the README's commands."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (REPOSITORY, notebook.parent.parent))))
    held = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(held, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(output) for cell in held.cells for output in cell.get("outputs", ()))
    assert "mmedge bundle" in shown and (tmp_path / "bundle" / "manifest.json").is_file()
    assert (tmp_path / "compressed" / "report.html").is_file()

"""The forms with the widget library that Colab has: ipywidgets 7.7.1 and IPython 7.34, laid over the environment of the tests."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers.files import ROOT

# As in Colab's list of packages (tests/constraints-colab.txt); what IPython 7 needs beyond what is installed.
OVERLAY = ("ipywidgets==7.7.1", "ipython==7.34.0", "ipython_genutils==0.2.0", "backcall==0.2.0", "pickleshare==0.7.5", "decorator==5.2.1", "jedi==0.19.2",
           "prompt_toolkit==3.0.48")  # fmt: skip
FORMS = ("test_playground.py", "test_review.py", "test_mapping.py", "test_display.py")


@pytest.mark.slow
def test_the_forms_with_the_widgets_of_colab(tmp_path):
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "overlay"), *OVERLAY]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the packages cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "overlay")}
    code = "import IPython, ipywidgets; print(IPython.__version__, ipywidgets.__version__)"
    versions = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert versions.stdout.split() == ["7.34.0", "7.7.1"]
    # traitlets only warns of a trait that a widget does not have.
    strict = "error:Passing unrecognized arguments:DeprecationWarning"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-W", strict, *(f"tests/{name}" for name in FORMS)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]

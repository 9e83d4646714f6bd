"""What importing the room may load."""

from __future__ import annotations

HEAVY = (
    "jax",
    "keras",
    "matplotlib",
    "pandas",
    "PIL",
    "platformdirs",
    "pooch",
    "requests",
    "scipy",
    "sklearn",
    "tensorflow",
    "torch",
)


def test_importing_the_room_is_light(run_python):
    loaded = run_python(
        "import sys, shrinkage.data\nprint(*sorted({name.split('.')[0] for name in sys.modules}))"
    ).split()
    assert "numpy" in loaded
    assert not set(loaded) & set(HEAVY)


def test_loading_needs_no_keras(run_python):
    code = "import sys, shrinkage.data\nshrinkage.data.load_data('digits')\nprint(*sys.modules)"
    assert not {"keras", "jax", "tensorflow"} & set(run_python(code).split())

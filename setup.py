"""Packaging of fedjax_face."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "fedjax_face/__init__.py").read_text())[1]

setuptools.setup(
    name="fedjax_face",
    version=VERSION,
    description="Face and image embeddings trained with federated learning and differential "
                "privacy, in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=setuptools.find_packages(include=["fedjax_face", "fedjax_face.*"]),
    python_requires=">=3.11,<3.14",
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.6",
        "dp-accounting>=0.5",
        "flax>=0.11",
        "importlib-resources>=6",
        "jax>=0.10,<0.13",
        "jax-privacy==2.0.0",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.20",
        "pillow>=11",
        "rich>=13",
        "scipy>=1.13",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
    ],
    extras_require={
        "dev": ["chex", "grpcio", "hypothesis", "ipykernel", "mypy", "nbclient", "nbformat",
                "pytest", "pytest-xdist", "ruff", "setuptools", "tensorboard", "wheel"],
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "vision": ["opencv-contrib-python-headless"],
        "sweep": ["optuna"],
        "edge": ["grpcio>=1.60"],
        "notebooks": ["jupyterlab", "nbclient", "nbformat", "ipykernel"],
    },
)

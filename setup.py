"""Packaging: what nbutils needs, as ranges. The exact tested set: requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

# torch is bounded, never pinned: a platform's own build must stay as it is.
CORE = [
    "torch>=2.6",
    "numpy>=1.26",
    "scipy>=1.11",
    "pydantic>=2.7,<3",
    "pyyaml>=6.0",
    "safetensors>=0.4",
    "fsspec>=2023.5",
    "psutil>=5.9",
    "pandas>=2.1",
    "matplotlib>=3.8",
    "torchmetrics>=1.3",
    "click>=8.1",
]
EXTRAS = {
    "notebook": [
        "cloudpickle>=3.0",
        "ipywidgets>=7.7,<9",
        "ipykernel>=6.17",
        "jupyterlab>=4.0",
        "nbformat>=5.7",
        "nbclient>=0.7",
        "nbconvert>=7.0",
        "papermill>=2.5",
        "jupytext>=1.16",
    ],
    "vision": ["timm>=1.0", "torchvision>=0.21", "pillow>=10.0", "scikit-learn>=1.3"],
    "graph": ["torch-geometric>=2.5"],
    "tracking": ["wandb>=0.28", "tensorboard>=2.15"],
    "low-memory": ["bitsandbytes>=0.50"],
    "export": ["onnx>=1.16", "onnxscript>=0.1", "onnxruntime>=1.17"],
    "hub": ["huggingface_hub>=0.34"],
}
DEV = [
    "pytest>=8.0",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "playwright>=1.45",
    "pyright[nodejs]>=1.1.400",
    "ruff>=0.9",
    "types-PyYAML",
]
USED = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

setup(
    name="nbutils",
    version="0.1.0",
    description="Prove a training run in seconds, then run it: PyTorch in notebooks.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["nbutils", "nbutils.*"]),
    include_package_data=True,
    package_data={"nbutils": ["py.typed", "**/*.yaml", "**/*.css", "**/*.js"]},
    install_requires=CORE,
    extras_require={**EXTRAS, "all": USED, "dev": [*USED, *DEV]},
    entry_points={"console_scripts": ["nbutils=nbutils.cli:main"]},
)

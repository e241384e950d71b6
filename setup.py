import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
_VERSION_MODULE = (ROOT / "tf2" / "version.py").read_text()
VERSION = re.search(r'__version__ = "(.+)"', _VERSION_MODULE).group(1)
REPOSITORY = re.search(r'REPOSITORY = "(.+)"', _VERSION_MODULE).group(1)

# Links of README that start here: on a package index they lead to the repository.
README = re.sub(
    r"\]\((?!https?:|#)([^)]+)\)",
    rf"]({REPOSITORY}/blob/main/\1)",
    (ROOT / "README.md").read_text(),
)
EXTRAS = {
    # The reference stack. tensorflow-addons needs Keras 2.15; later releases of
    # tensorflow-metadata (a requirement of tensorflow-datasets) cannot be imported with the
    # protobuf that TensorFlow 2.15 needs.
    "addons": [
        "tensorflow==2.15.1",
        "keras==2.15.0",
        "tensorflow-addons==0.23.0",
        "tensorflow-metadata<1.16",
        "pyarrow<20",  # later ones cannot be imported with NumPy 1, which TensorFlow 2.15 needs
        "setuptools<81",  # tensorboard 2.15 imports pkg_resources, which later ones lack
    ],
    "cuda": ["tensorflow[and-cuda]"],
    "torch": ["torch"],
    "heic": ["pillow-heif"],
    "hub": ["huggingface_hub>=2"],
    "litert": ["ai-edge-litert"],
    "onnx": ["tf2onnx>=1.17", "onnxruntime"],
    "colab": ["ipykernel", "nbclient", "nbformat"],
    "test": [
        "ai-edge-litert; sys_platform == 'linux'",  # the tests run exported files
        "build",
        "huggingface_hub>=2",
        "ipykernel",  # the tests run the notebooks
        "nbclient",
        "nbformat",
        "pillow",
        "pytest",
        "pytest-xdist>=3.7",
        "pyyaml",
        "ruff>=0.17,<0.18",  # formatting differs between ruff's minor versions
        "scipy",
        # The tests compare with its networks, and skip where it is not installed.
        "torch==2.13.0; python_version < '3.13'",
        "wheel",
    ],
    "docs": ["mkdocs-jupyter", "mkdocs-material", "mkdocstrings[python]", "ruff"],
    # tests/test_tensorboard_browser.py; Chromium and chromedriver come with the system.
    "browser": ["selenium"],
}
EXTRAS["dev"] = [*EXTRAS["test"], *EXTRAS["docs"], "coverage", "mypy", "pre-commit", "pytest-cov"]

setuptools.setup(
    name="simclr-tf2",
    version=VERSION,
    description="SimCLRv2 for TensorFlow 2 and Keras: pretrain, fine-tune on few labels, distill",
    long_description=README,
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    url=REPOSITORY,
    project_urls={
        "Source": REPOSITORY,
        "Documentation": f"{REPOSITORY}/tree/main/docs",
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=setuptools.find_packages(include=["tf2", "tf2.*", "checkpoints_tools"]),
    package_data={"tf2.recipes": ["*.flags"]},
    # The oldest Python that the tests run on, and the newest that the addons extra has wheels for.
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "h5py",  # Keras has it too
        "importlib_resources",  # tensorflow-datasets 4.9.10 imports it without declaring it
        "keras>=2.15",
        "matplotlib",
        "numpy",
        "pillow",  # sizes of images, without decoding them
        "scikit-learn",  # the embedded digits
        "tensorflow>=2.15",
        "tensorboard",  # tf.summary needs it; TensorFlow 2.21 no longer brings it
        "tensorflow-datasets>=4.9",
        "tqdm",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["simclr = tf2.run:cli"]},
)

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "tf2" / "version.py").read_text()).group(1)

setuptools.setup(
    name="simclr-tf2",
    version=VERSION,
    description="SimCLRv2 for TensorFlow 2 and Keras: pretrain, fine-tune on few labels, distill",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["tf2", "tf2.*", "checkpoints_tools"]),
    package_data={"tf2.recipes": ["*.flags"]},
    # The oldest Python that the tests run on; the addons extra has wheels up to it.
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "h5py",  # Keras has it too
        "importlib_resources",  # tensorflow-datasets 4.9.10 imports it without declaring it
        "keras>=2.15",
        "matplotlib",
        "numpy",
        "scikit-learn",  # the embedded digits
        "tensorflow>=2.15",
        "tensorboard",  # tf.summary needs it; TensorFlow 2.21 no longer brings it
        "tensorflow-datasets>=4.9",
        "tqdm",
    ],
    extras_require={
        # The reference stack: tensorflow-addons needs Keras 2.15. Newer tensorflow-metadata, of
        # tensorflow-datasets, can't be imported beside the protobuf that TensorFlow 2.15 needs.
        "addons": [
            "tensorflow==2.15.1",
            "keras==2.15.0",
            "tensorflow-addons==0.23.0",
            "tensorflow-metadata<1.16",
            "pyarrow<20",  # later ones can't be imported beside NumPy 1, which TensorFlow needs
            "setuptools<81",  # tensorboard 2.15 imports pkg_resources, which later ones lack
        ],
        "cuda": ["tensorflow[and-cuda]"],
        "test": [
            "ipykernel",  # the notebooks run, too
            "mypy>=2.4,<2.5",
            "nbclient",
            "nbformat",
            "pillow",
            "pytest",
            "pytest-xdist>=3.7",
            "ruff>=0.17,<0.18",  # a ruff's format is its minor version's
            "scipy",
            "torch==2.13.0",  # comparisons with its networks
        ],
        # tests/test_tensorboard_browser.py; Chromium and chromedriver come with the system.
        "browser": ["selenium"],
        "colab": ["ipykernel", "nbclient", "nbformat"],
        "torch": ["torch"],
    },
)

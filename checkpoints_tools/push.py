"""Publishes a network on the Hugging Face Hub.

    python -m checkpoints_tools.push RUN user/name [--private]

RUN is a run's model_dir, one of its checkpoints, or a file that `convert` reads. The repository
gets model.safetensors, model.json and README.md, the model card, and nothing else of the run. The
login is huggingface_hub's: `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

if not __package__:  # run as a script
    import script_path  # noqa: F401

import os
import tempfile

from checkpoints_tools import convert
from tf2 import architecture as architecture_lib
from tf2 import errors, files, run_directory
from tf2 import model as model_lib
from tf2.checkpoints import hub, model_json
from tf2.visuals import model_card

# Of a run's flags.json: what a card says of the training. Paths of this machine are not among it.
_PRIVATE = ("data_dir", "model_dir", "checkpoint", "teacher", "labels", "output")


def push(path: str, repository: str, *, private: bool = False) -> str:
    """Publishes a network; a repository that exists gets a new commit.

    Args:
        path: of the network.
        repository: user/name.
        private: whether a new repository is private.

    Returns:
        Its address, hf://user/name.

    Raises:
        errors.UserError: there is no network, or the Hub does not accept it.
    """
    address = f"{hub.PREFIX}{repository}"
    if hub.parse(address)[1]:
        raise errors.UserError(
            f"What is published has no revision yet. Received: {repository}. Give user/name."
        )
    api = hub.library().HfApi()
    path = run_directory.network(os.path.expanduser(path), "export")
    with tempfile.TemporaryDirectory() as directory:
        write(path, directory, address)
        with hub.asking(address):
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=directory, commit_message="Upload the network"
            )
    return address


def write(path: str, directory: str, address: str) -> None:
    """Writes the files of a repository into an empty directory."""
    metadata = convert.convert(path, os.path.join(directory, hub.WEIGHTS_FILE), "safetensors")
    model_json.write_model_json(directory, metadata)
    architecture = {**architecture_lib.DEFAULTS, **metadata["architecture"]}
    home = path if os.path.isdir(path) else os.path.dirname(path)
    flags = run_directory.read_flags(home) or {}
    card = model_card.text(
        model_lib.SimCLR(**architecture),
        metadata,
        preprocessing=metadata["preprocessing"],
        class_names=metadata.get("class_names"),
        settings={n: value for n, value in flags.items() if n not in _PRIVATE},
        results=model_json.read_results(home, metadata["global_step"]),
        address=address,
    )
    task = "image-classification" if architecture["num_classes"] else "image-feature-extraction"
    front = f"---\nlibrary_name: simclr-tf2\npipeline_tag: {task}\ntags:\n- simclr\n---\n"
    files.write_text(os.path.join(directory, model_card.FILE_NAME), front + card)


if __name__ == "__main__":
    from absl import flags as absl_flags

    from checkpoints_tools import cli

    _PRIVATE_REPOSITORY = absl_flags.DEFINE_bool("private", False, "Make a new one private.")

    def main(arguments: list[str]) -> None:
        """Runs the command line: prints the address."""
        cli.check_arguments(
            arguments, 2, "push takes a network and a repository.", "Write: RUN user/name."
        )
        address = push(arguments[1], arguments[2], private=_PRIVATE_REPOSITORY.value)
        print(f"Published: {address}. Use it as --checkpoint={address}.")

    cli.run(main)

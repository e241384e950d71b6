"""SimCLRv2 (Chen et al. 2020) for TensorFlow 2 and Keras.

    import tf2 as simclr

    model = simclr.SimCLR(depth=50, width_multiplier=1, sk_ratio=0.0625, num_classes=1000)
    simclr.load_weights(model, path)
    endpoints = model(images, training=False)  # ["final_avg_pool"], ["logits_sup"], ...

The floors of the package, from the command line down. A module or package imports what stands on
the floors below its own, and a package its own modules (tests/test_layering.py reads this table):

    study, benchmark, parity, classifier    commands; the whole way in Python
    select_study                            accuracy over the number of labels, by choice
    run                                     the command line
    early_checks                            mistakes found before TensorFlow is imported
    stages                                  the three stages of SimCLRv2 as one resumable run
    stage_results                           what all stages found: table, estimates, page
    pipeline                                one run: train, evaluate, export
    watch                                   follow a pretraining while it runs
    run_evaluation                          evaluate a run once, or each checkpoint as it appears
    apply                                   a trained network at work: features, predictions
    visuals                                 figures, tables, model card
    guide                                   what to do after a run: commands, a labels file
    job                                     what a run works with: data, devices, directory
    auto, resolve, run_data                 from a user's settings to those of a run; its images
    training, evaluation, teacher, loop     one step per train mode; exact evaluation
    micro_batches                           gradients of a batch in parts
    selection                               which images to label, by their features
    inspection                              duplicates, outliers and doubtful labels among images
    checkpoints                             weights on disk: save, read, match by name, download
    data, model, momentum_encoder, objective, optimization, metrics, knn
    backbones                               the networks below the projection head
    sources, data_util, resnet, lars_optimizer, variables, distribute
    augment                                 image operations: color, rotation, noise, cutout, Sobel
    precedence                              which value of a flag wins
    recipe                                  named settings
    identity                                when a run or a stage is the same as before
    run_directory, run_lock                 what a directory says of its run; one training in it
    schemas                                 what the JSON files of a run may hold
    config                                  the settings of a run
    flags                                   every flag, with all that is known of it; their rules
    console, files, compat, progress, program  messages, files, Keras versions
    architecture, calibration, modes, sanity  what networks are; what each train mode needs
    cells, errors, intervals, machine, processes, version

Names are looked up when first used, so that importing a module that needs no TensorFlow (the
command line's help, for one) doesn't wait for it.
"""

import importlib
from typing import Any

_HOMES = {
    "Classifier": "classifier",
    "Config": "config",
    "LARSOptimizer": "lars_optimizer",
    "SimCLR": "model",
    "UserError": "errors",
    "WarmUpAndCosineDecay": "optimization",
    "__version__": "version",
    "add_contrastive_loss": "objective",
    "add_distillation_loss": "objective",
    "add_supervised_loss": "objective",
    "audit": "apply.audit",
    "build_dataset": "data",
    "build_source": "sources.loaders",
    "configure": "run",
    "distill_step": "training",
    "draw_map": "apply.inference",
    "draw_neighbors": "apply.inference",
    "draw_predictions": "apply.inference",
    "embed": "apply.inference",
    "evaluate": "pipeline",
    "export_saved_model": "apply.export",
    "finetune_step": "training",
    "fit": "classifier",
    "knn_accuracy": "knn",
    "load_model": "checkpoints.checkpoint",
    "load_source": "sources.loaders",
    "load_weights": "checkpoints.checkpoint",
    "make_strategy": "distribute",
    "named_variables": "variables",
    "predict": "apply.inference",
    "preprocess_image": "data_util",
    "pretrain_step": "training",
    "quiet": "console",
    "run_all_stages": "stages",
    "run_all_steps": "stages",
    "score": "apply.inference",
    "select": "apply.images_to_label",
    "train": "pipeline",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Imports a public name from its module at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tf2' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tf2.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return sorted([*globals(), *__all__])

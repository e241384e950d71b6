"""SimCLRv2 (Chen et al. 2020) for TensorFlow 2 and Keras.

    import tf2 as simclr

    model = simclr.SimCLR(depth=50, width_multiplier=1, sk_ratio=0.0625, num_classes=1000)
    simclr.load_weights(model, path)
    endpoints = model(images, training=False)  # ["final_avg_pool"], ["logits_sup"], ...

The layers, from the command line down; a module imports what stands below it:

    run, study                        the command line; labels against accuracy
    steps, report                     the three steps as one run; tables and figures
    apply, inference                  a trained network at work: probes, features, answers
    pipeline, gallery, job            one step: train, evaluate, export; its pictures
    training, loop, evaluation        steps, their loop, exact evaluation
    data, model, momentum_encoder, teacher, objective, optimization, metrics, probes,
    linear_probes, features
    checkpoint, export, model_card, plots, projector
    datasets, data_util, resnet, lars_optimizer, published, layouts, variables
    download, catalog                 released networks by name
    config, console, distribute, files, compat, errors

Names are looked up when first used, so that importing a module that needs no TensorFlow (the
command line's help, for one) doesn't wait for it.
"""

import importlib

_HOMES = {
    "__version__": "version",
    "Config": "config",
    "LARSOptimizer": "lars_optimizer",
    "SimCLR": "model",
    "UserError": "errors",
    "WarmUpAndCosineDecay": "optimization",
    "add_contrastive_loss": "objective",
    "add_distillation_loss": "objective",
    "add_supervised_loss": "objective",
    "build_dataset": "data",
    "build_source": "datasets",
    "configure": "run",
    "distill_step": "training",
    "draw_map": "inference",
    "draw_neighbors": "inference",
    "draw_predictions": "inference",
    "embed": "inference",
    "evaluate": "pipeline",
    "export_saved_model": "export",
    "finetune_step": "training",
    "knn_accuracy": "probes",
    "load_model": "checkpoint",
    "load_source": "datasets",
    "load_weights": "checkpoint",
    "make_strategy": "distribute",
    "named_variables": "variables",
    "predict": "inference",
    "preprocess_image": "data_util",
    "pretrain_step": "training",
    "quiet": "console",
    "run_all_steps": "steps",
    "score": "inference",
    "train": "pipeline",
}

__all__ = list(_HOMES)


def __getattr__(name):
    """Imports a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tf2' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tf2.{_HOMES[name]}"), name)


def __dir__():
    """Lists the public names."""
    return sorted([*globals(), *__all__])

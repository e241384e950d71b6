"""Flags: evaluation, export and the machine."""

import dataclasses

from tf2.flags import fields

# Methods of mode=select that need the probabilities of classes.
CLASSIFIER_METHODS = ("margin", "uncertainty_herding")
# Of mode=export: format -> the packages that it needs, and the extra that installs them.
FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "savedmodel": ((), ""),
    "litert": (("ai_edge_litert",), "litert"),
    "litert_int8": (("ai_edge_litert",), "litert"),
    "onnx": (("tf2onnx", "onnxruntime"), "onnx"),
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation, export and the machine."""

    eval_batch_size: int = fields.evaluation(
        256,
        "Images per evaluation step.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[1, inf)",
    )
    eval_steps: int = fields.evaluation(
        0,
        "Evaluation steps; 0 evaluates the whole split exactly.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[0, inf)",
    )
    eval_name: str | None = fields.evaluation(
        None,
        "Name of this evaluation's TensorBoard run, a directory below model_dir.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    eval_timeout: int = fields.evaluation(
        0,
        "Seconds that mode=eval waits for another checkpoint of an unfinished run; "
        "0 waits indefinitely.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
        modes=("eval",),
    )
    eval_knn: str = fields.evaluation(
        "auto",
        "Measure nearest-neighbor accuracy of the features; on: of all images; auto: after "
        "pretraining, of at most 5,000 images with at most 10,000 to search for neighbors.",
        ("auto", "on", "off"),
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
    )
    probes: str = fields.evaluation(
        "knn,logistic",
        "Probes that mode=probe fits on frozen features, separated by commas: knn, logistic "
        "(L-BFGS, L2 strength chosen on a validation set), sgd.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        modes=("probe",),
    )
    endpoint: str = fields.evaluation(
        "final_avg_pool",
        "Features that mode=probe, embed and select use: an endpoint, or proj_0, proj_1, ... for "
        "the projection head's layers.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        modes=("probe", "embed", "select"),
    )
    output: str | None = fields.evaluation(
        None,
        "File that mode=embed (.npz or .parquet) or mode=predict (.csv) writes.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        modes=("embed", "predict"),
    )
    min_precision: float = fields.evaluation(
        0.0,
        "Precision that predictions must have which are used without review, such as 0.95: the "
        "others have review=yes in predictions.csv. By held-out labels; 0 marks none.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, 1)",
        modes=("predict", "train_then_eval"),
    )
    coverage: float = fields.evaluation(
        0.0,
        "Share of the images whose set of classes in predictions.csv must hold the true class, "
        "from 0.5; by held-out labels. 0 writes no sets.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, 1)",
        modes=("predict", "train_then_eval"),
    )
    count: int = fields.evaluation(
        40,
        "Images that mode=select chooses.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[1, inf)",
        modes=("select",),
    )
    select_method: str = fields.evaluation(
        "maxherding",
        "How mode=select chooses: greedy coverage of the features (maxherding), the most typical "
        "image of each cluster (typiclust), the farthest image (kcenter), or random; with a "
        "classifier, for later rounds: the smallest margin, or coverage weighted by it "
        "(uncertainty_herding).",
        ("maxherding", "typiclust", "kcenter", "random", *CLASSIFIER_METHODS),
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        modes=("select",),
    )
    knn_every_epochs: int = fields.evaluation(
        0,
        "Epochs between measurements of the features' nearest-neighbor accuracy while "
        "pretraining; 0 for none, -1 for about ten in all. Needs labels.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[-1, inf)",
    )
    knn_neighbors: int = fields.evaluation(
        20,
        "Number of neighbors k.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[1, inf)",
    )
    knn_bank_size: int = fields.evaluation(
        50000,
        "Maximum number of training images to search for neighbors.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[1, inf)",
    )
    plots: bool = fields.evaluation(
        True,
        "Draw the run after mode=train_then_eval, in model_dir/plots and for TensorBoard: curves, "
        "features (also in the projector), neighbors, similarities, confusion matrix.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    export: bool = fields.evaluation(
        True,
        "Export a SavedModel at the end of the run.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    formats: str = fields.evaluation(
        "savedmodel",
        f"Formats that mode=export writes, separated by commas: {', '.join(FORMATS)}. The "
        "SavedModel is always written; the others are run on eval_split, and the model card "
        "compares them.",
        scope=fields.SHARED,
        identity=fields.FREE,
        modes=("export",),
    )
    keep_hub_module_max: int = fields.evaluation(
        1,
        "Newest SavedModel exports to keep; 0 keeps all.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    strategy: str = fields.machine(
        "auto",
        "Devices: one, mirrored over this machine's GPUs, multiworker "
        "(TF_CONFIG), or tpu; auto is mirrored on a machine with several GPUs.",
        ("auto", "one", "mirrored", "multiworker", "tpu"),
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    use_tpu: bool = fields.machine(
        False,
        "Same as --strategy=tpu.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    tpu_name: str | None = fields.machine(
        None,
        "Cloud TPU to use.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    tpu_zone: str | None = fields.machine(
        None,
        "Zone of the Cloud TPU.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    gcp_project: str | None = fields.machine(
        None,
        "Project of the Cloud TPU.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    master: str | None = fields.machine(
        None,
        "Address of the TPU, instead of tpu_name.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    mixed_precision: str = fields.machine(
        "off",
        "bf16 computes in bfloat16, with losses in float32.",
        ("off", "bf16"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    recompute: bool = fields.machine(
        False,
        "Hold the inputs of a ResNet's blocks only, and compute what is within them again in the "
        "backward pass: the same numbers in less memory, about a third slower.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    jit_compile: bool = fields.machine(
        False,
        "Compile the training step with XLA; slower on a CPU.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )

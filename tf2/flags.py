"""Every flag: its default, help text, choices, range, scope, identity and group.

This is the only place where a flag is defined. run.py makes the command line from these fields,
`config.Config` adds what can be derived from them, and every list of flags is computed from their
metadata (see `flag_fields.flag`). Nothing here imports TensorFlow, so that `--help` is quick.
"""

import dataclasses

from tf2 import architecture, modes
from tf2 import flag_fields as fields


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of a run, in the order of --help."""

    mode: str = fields.job(
        "train",
        "train; eval (every checkpoint in model_dir as it appears); both in turn; or use the "
        "network of checkpoint or model_dir: probe its features, embed or predict images, export.",
        ("train", "eval", "train_then_eval", "probe", "embed", "predict", "export"),
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    train_mode: str = fields.job(
        "pretrain",
        "; ".join(mode.help for mode in modes.TRAIN_MODES.values())
        + f"; or all of them in turn ({modes.SIMCLRV2}).",
        modes.names,
        scope=fields.SHARED,
        identity=fields.TRAINS,
    )
    recipe: str = fields.job(
        "",
        "Named settings from tf2/recipes; flags on the command line win over them. "
        "'help' lists the recipes.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    model_dir: str | None = fields.job(
        None,
        "Directory for checkpoints, logs, results and exports. A run that stopped "
        "there continues. Default: ./runs/<dataset>_<train_mode>.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    checkpoint: str | None = fields.job(
        None,
        "Weights to start from: a model_dir, a checkpoint prefix, an exported SavedModel, or the "
        "name of a released network, which is downloaded (python -m checkpoints_tools.catalog "
        "lists them). The architecture is read from the model.json beside it.",
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    weights: str = fields.job(
        "online",
        "Which weights of a network pretrained with a memory are taken from --checkpoint, "
        "evaluated and exported: those that were trained (online), or their moving average (ema).",
        ("online", "ema"),
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    allow_partial: bool = fields.job(
        False,
        "Start even where --checkpoint lacks weights of the backbone.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    seed: int = fields.job(
        0,
        "Seed of the initial weights, the data order and the augmentation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 2147483647]",
    )

    dataset: str = fields.data(
        "",
        "digits (embedded), folder (images below data_dir), or the name of any "
        "TensorFlow Datasets image classification set. Empty means digits.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
    )
    data_dir: str | None = fields.data(
        None,
        "Directory of the TensorFlow Datasets files or of the picture folder.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    train_split: str = fields.data(
        "train",
        "Split to train on.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    eval_split: str = fields.data(
        "validation",
        "Split to evaluate on.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
    )
    cache_dataset: bool = fields.data(
        False,
        "Keep the undecoded training records in memory after the first epoch.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    val_fraction: float = fields.data(
        0.0,
        "Fraction of a folder's images to hold out for evaluation if the folder has no "
        "evaluation split.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    max_bad_fraction: float = fields.data(
        0.01,
        "Largest fraction of a folder's images that may be unreadable.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, 1]",
    )
    label_fraction: float = fields.data(
        0.0,
        "Fraction of the labels to fine-tune or train on, the same for each class; 0 uses all.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it is a fraction of the labels, not a percentage",
    )
    labels_per_class: int = fields.data(
        0,
        "Labeled images per class to fine-tune or train on; 0 uses all.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    label_seed: int = fields.data(
        0,
        "Seed of the choice of labeled images.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 2147483647]",
    )
    shuffle_buffer: int = fields.data(
        50000,
        "Records to shuffle among where a dataset can only be read in sequence.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    num_parallel_calls: int = fields.data(
        0,
        "Images prepared in parallel; 0 lets TensorFlow decide.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )

    image_size: int = fields.augmentation(
        224,
        "Side of the square images that the network sees, in pixels.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
        why="it is in pixels",
    )
    color_jitter_strength: float = fields.augmentation(
        1.0,
        "Strength of the color jitter in pretraining: brightness, contrast and "
        "saturation vary by 0.8 times this, hue by 0.2 times this; 0 turns jitter "
        "and grayscale off.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1.25]",
        why="the factor 1 - 0.8 * strength of contrast and saturation must not be negative",
    )
    color_jitter_impl: str = fields.augmentation(
        "simclrv2",
        "Whether brightness is multiplied (simclrv2) or added to (simclrv1).",
        ("simclrv1", "simclrv2"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    use_blur: bool = fields.augmentation(
        True,
        "Blur half of the images in pretraining (Gaussian, sigma 0.1 to 2).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    crop_min_area: float = fields.augmentation(
        0.08,
        "Smallest random crop of a training image, as a fraction of its area; more than the "
        "published 0.08 if the objects fill small images.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="(0, 1]",
    )
    flip: bool = fields.augmentation(
        True,
        "Mirror half of the training images left to right; not for digits.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    rotation_degrees: float = fields.augmentation(
        0.0,
        "Rotate training images by up to this many degrees either way.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 180]",
    )
    noise_std: float = fields.augmentation(
        0.0,
        "Standard deviation of Gaussian noise added to images in [0, 1].",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    cutout_size: float = fields.augmentation(
        0.0,
        "Side of a square that is blanked out, as a fraction of the image's.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it is a fraction of the image's side",
    )
    sobel: bool = fields.augmentation(
        False,
        "Replace images by their edges (Sobel), in training and in evaluation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    resize: str = fields.augmentation(
        "half_pixel",
        "Pixel grid of every resize, in training too: half_pixel, as the reference's TF2 "
        "program, or legacy, as its TF1 program, which made the released networks.",
        architecture.RESIZES,
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    train_batch_size: int = fields.training(
        512,
        "Images per training step over all replicas (each gives two views).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    train_epochs: int = fields.training(
        100,
        "Passes over the training images; train_steps overrides it.",
        scope=fields.PER_STAGE,
        identity=fields.LENGTH,
        range="[0, inf)",
    )
    train_steps: int = fields.training(
        0,
        "Steps to train for; 0 means train_epochs.",
        scope=fields.PER_STAGE,
        identity=fields.LENGTH,
        range="[0, inf)",
    )
    warmup_epochs: float = fields.training(
        10.0,
        "Epochs in which the learning rate rises from 0 to its peak.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    learning_rate: float = fields.training(
        0.3,
        "The peak learning rate is this times train_batch_size / 256 under linear "
        "scaling (a rate per 256 images) and this times sqrt(train_batch_size) under "
        "sqrt scaling.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    learning_rate_scaling: str = fields.training(
        "linear",
        "How the peak learning rate grows with train_batch_size; see learning_rate.",
        ("linear", "sqrt"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    optimizer: str = fields.training(
        "lars",
        "lars and lamb adapt the step per layer; momentum is SGD with Nesterov's.",
        ("momentum", "adam", "lars", "lamb"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    momentum: float = fields.training(
        0.9,
        "Momentum of lars and momentum.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    weight_decay: float = fields.training(
        1e-6,
        "Decay of the weights: coefficient of 0.5 * |w|^2. lars applies it to kernels in its own "
        "update (to the classifier's in the loss); with the other optimizers it is in the loss, "
        "on all weights but batch norm's.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    log_every_steps: int = fields.training(
        0,
        "Steps between progress lines and TensorBoard points; 0 chooses.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    checkpoint_epochs: int = fields.training(
        1,
        "Epochs between checkpoints; checkpoint_steps overrides it. With few labels, whose epochs "
        "are short, the default is a twentieth of the training where that is more.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    checkpoint_steps: int = fields.training(
        0,
        "Steps between checkpoints; 0 means checkpoint_epochs.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    keep_checkpoint_max: int = fields.training(
        5,
        "Newest checkpoints to keep; the best one is kept besides, under best/.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[1, inf)",
    )

    contrastive_loss: str = fields.loss(
        "ntxent",
        "Contrastive loss: ntxent (SimCLR's) or supcon (supervised contrastive, which needs "
        "labels); --contrastive_loss=help lists all.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    temperature: float = fields.loss(
        0.1,
        "Divisor of the similarities in the contrastive loss.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="(0, inf)",
    )
    hidden_norm: bool = fields.loss(
        True,
        "Scale embeddings to length 1 before the contrastive loss, so that it compares cosines.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    lineareval_while_pretraining: bool = fields.loss(
        True,
        "While pretraining also fit a linear classifier on the features, whose "
        "gradient does not reach the backbone; needs labels.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    use_memory: bool = fields.memory(
        False,
        "Contrast with a memory too: a queue of embeddings of earlier batches, made by a moving "
        "average of the network (SimCLRv2, section 2).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    memory_size: int = fields.memory(
        65536,
        "Embeddings in the memory; the oldest make way for new ones.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    ema_decay: float = fields.memory(
        0.999,
        "How much of the moving average of the weights a step keeps.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
    )

    backbone: str = fields.model(
        "resnet",
        "Network below the projection head: resnet or efficientnet_b0; --backbone=help lists all.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
    )
    resnet_depth: int = fields.model(
        50,
        "ResNet depth: 18, 34, 50, 101, 152 or 200.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
    )
    width_multiplier: float = fields.model(
        1.0,
        "Width of the ResNet: 1, 2, 3, 4, or a fraction such as 0.25.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[0.0625, inf)",
    )
    sk_ratio: float = fields.model(
        0.0,
        "Selective kernels: width of their bottleneck, and ResNet-D stem and "
        "shortcut. 0 for none; the released sk1 networks have 0.0625.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[0, 1]",
    )
    se_ratio: float = fields.model(
        0.0,
        "Squeeze-and-excitation: width of its bottleneck; 0 for none.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[0, 1]",
    )
    stem: str = fields.model(
        "auto",
        "First layers: imagenet (7x7, stride 2, pooling) or cifar (3x3, stride 1); "
        "auto means cifar up to image_size 32.",
        ("auto", *architecture.STEMS),
        scope=fields.NETWORK,
        identity=fields.TRAINS,
    )
    proj_head_mode: str = fields.model(
        "nonlinear",
        "Projection head between the features and the contrastive loss.",
        architecture.PROJ_HEAD_MODES,
        scope=fields.NETWORK,
        identity=fields.TRAINS,
    )
    num_proj_layers: int = fields.model(
        3,
        "Layers of the nonlinear projection head.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    proj_out_dim: int = fields.model(
        128,
        "Width of the projection head's output.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    batch_norm_decay: float = fields.model(
        0.9,
        "How much of batch norm's moving statistics a step keeps.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    global_bn: bool = fields.model(
        True,
        "Compute batch norm's statistics over all replicas' images.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    ft_proj_selector: int = fields.finetuning(
        0,
        "Layer of the projection head after which the classifier sits: 0 on the "
        "features before the head, 1 after its first layer, -1 after its last.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[-1, inf)",
    )
    fine_tune_after_block: int = fields.finetuning(
        -1,
        "Freeze the network up to this block: -1 nothing, 0 the stem, 1 to 4 that "
        "block group too; 4 is linear evaluation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[-1, 4]",
        why="-1 trains everything, 4 only the classifier",
    )
    zero_init_logits_layer: bool = fields.model(
        False,
        "Start the classifier from zeros instead of small random numbers.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    restore_head: bool = fields.finetuning(
        False,
        "Start the classifier from the one in --checkpoint.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    teacher: str = fields.distillation(
        "",
        "Network to learn from: a model_dir, checkpoint, or SavedModel with logits_sup; several, "
        "separated by commas, are averaged.",
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    distill_temperature: float = fields.distillation(
        1.0,
        "Divisor of the logits of teacher and student in the distillation loss.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="(0, inf)",
    )
    distill_alpha: float = fields.distillation(
        1.0,
        "Weight of the distillation loss; that of the loss on labels is 1 minus it. At 1 no label "
        "is read.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it weighs the teacher's predictions against the labels",
    )
    distill_scale_by_t2: bool = fields.distillation(
        False,
        "Multiply the distillation loss by the square of its temperature; the paper doesn't.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    eval_batch_size: int = fields.evaluation(
        256,
        "Images per evaluation step.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[1, inf)",
    )
    eval_steps: int = fields.evaluation(
        0,
        "Evaluation steps; 0 means the whole split, exactly.",
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
        "0 waits for ever.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    eval_knn: str = fields.evaluation(
        "auto",
        "Measure nearest-neighbor accuracy of the features; auto: after pretraining.",
        ("auto", "on", "off"),
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
    )
    probes: str = fields.evaluation(
        "knn,logistic",
        "What mode=probe fits on frozen features: knn, logistic (L-BFGS, L2 chosen on a "
        "validation part), sgd; separated by commas.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    endpoint: str = fields.evaluation(
        "final_avg_pool",
        "Features that mode=probe and mode=embed use: an endpoint, or proj_0, proj_1, ... for "
        "the projection head's layers.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    output: str | None = fields.evaluation(
        None,
        "File that mode=embed (.npz or .parquet) or mode=predict (.csv) writes.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    knn_every_epochs: int = fields.evaluation(
        0,
        "Epochs between measurements of the features' nearest-neighbor accuracy while "
        "pretraining; 0 for none. Needs labels.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    knn_neighbors: int = fields.evaluation(
        20,
        "Neighbors that vote.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[1, inf)",
    )
    knn_bank_size: int = fields.evaluation(
        50000,
        "Training images, at most, among which neighbors are looked for.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[1, inf)",
    )
    plots: bool = fields.evaluation(
        True,
        "Draw the run after mode=train_then_eval, in model_dir/plots and for TensorBoard: curves, "
        "features (in the projector too), neighbors, similarities, what the classifier confuses.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    export: bool = fields.evaluation(
        True,
        "Export a SavedModel at the end.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
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
        "Replicas: one device, mirrored over this machine's GPUs, multiworker "
        "(TF_CONFIG), or tpu; auto is mirrored where there are several GPUs.",
        ("auto", "one", "mirrored", "multiworker", "tpu"),
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    use_tpu: bool = fields.machine(
        False,
        "Short for --strategy=tpu.",
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
        "Address of the TPU, in place of tpu_name.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    mixed_precision: str = fields.machine(
        "off",
        "bf16 computes in bfloat16; losses stay in float32.",
        ("off", "bf16"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    jit_compile: bool = fields.machine(
        False,
        "Compile the training step with XLA; slower on a CPU.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )

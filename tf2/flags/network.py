"""Flags: the network, how it is fine-tuned and distilled."""

import dataclasses

from tf2 import architecture
from tf2.flags import fields


@dataclasses.dataclass(frozen=True)
class Network:
    """The network, how it is fine-tuned and distilled."""

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
        auto=True,
    )
    width_multiplier: float = fields.model(
        1.0,
        "Width of the ResNet: 1, 2, 3, 4, or a fraction such as 0.25.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[0.0625, 16]",
        auto=True,
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
        range="[1, 100]",
    )
    proj_out_dim: int = fields.model(
        128,
        "Width of the projection head's output.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[1, 65536]",
    )
    batch_norm_decay: float = fields.model(
        0.9,
        "Decay per step of batch norm's moving statistics.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    global_bn: bool = fields.model(
        True,
        "Compute batch norm's statistics over the images of all replicas.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    ft_proj_selector: int = fields.finetuning(
        0,
        "Layer of the projection head that feeds the classifier: 0 the features before the "
        "head, 1 its first layer, -1 its last.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[-1, 100]",
        auto=True,
    )
    fine_tune_after_block: int = fields.finetuning(
        -1,
        "Freeze the network up to this block: -1 nothing, 0 the stem, 1 to 4 up to that "
        "block group; 4 is linear evaluation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[-1, 4]",
        why="-1 trains everything, 4 only the classifier",
    )
    zero_init_logits_layer: bool = fields.model(
        False,
        "Initialize the classifier with zeros instead of small random numbers.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    restore_head: bool = fields.finetuning(
        False,
        "Restore the classifier from --checkpoint too.",
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
    trust_teacher_graph: bool = fields.distillation(
        False,
        "Run the graph of a teacher that is another program's SavedModel. A graph is a program: it "
        "can read and write your files.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
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
        "Weight of the distillation loss; the loss on labels has weight 1 minus this. 1 uses no "
        "labels.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it weighs the teacher's predictions against the labels",
    )
    distill_scale_by_t2: bool = fields.distillation(
        False,
        "Multiply the distillation loss by the squared temperature; the paper does not.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

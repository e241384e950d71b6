"""Flags: length, optimizer and contrastive loss."""

import dataclasses

from tf2.flags import fields


@dataclasses.dataclass(frozen=True)
class Training:
    """Length, optimizer and contrastive loss."""

    train_batch_size: int = fields.training(
        512,
        "Images per training step over all replicas (each gives two views).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
        auto=True,
    )
    micro_batches: int = fields.training(
        1,
        "Parts of a batch that go through the network one after another, to save memory: the "
        "loss is that of the whole batch, batch norm's statistics are those of a part. Must "
        "divide the batch of a replica.",
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
        auto=True,
    )
    train_steps: int = fields.training(
        0,
        "Training steps; 0 uses train_epochs.",
        scope=fields.PER_STAGE,
        identity=fields.LENGTH,
        range="[0, inf)",
    )
    minutes: float = fields.training(
        0.0,
        "Time for all stages together, from which train_epochs=auto follows; 0 means 30 on a CPU "
        "and 240 on a GPU.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, inf)",
    )
    warmup_epochs: float = fields.training(
        10.0,
        "Epochs over which the learning rate rises from 0 to its peak.",
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
        auto=True,
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
        "lars and lamb scale the update per layer; momentum is SGD with Nesterov momentum.",
        ("momentum", "adam", "lars", "lamb"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    momentum: float = fields.training(
        0.9,
        "Momentum of the optimizers lars and momentum.",
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
        "Steps between progress lines and TensorBoard points; 0 chooses automatically.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    checkpoint_epochs: int = fields.training(
        1,
        "Epochs between checkpoints; checkpoint_steps overrides it. Where epochs are short, the "
        "default is at least a hundred steps or a twentieth of the training, on a labeled subset "
        "a twentieth.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    checkpoint_steps: int = fields.training(
        0,
        "Steps between checkpoints; 0 uses checkpoint_epochs.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    keep_checkpoint_max: int = fields.training(
        5,
        "Newest checkpoints to keep; the best one is also kept, under best/.",
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
        auto=True,
    )
    hidden_norm: bool = fields.loss(
        True,
        "Normalize embeddings to length 1, so that the contrastive loss compares cosines.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    lineareval_while_pretraining: bool = fields.loss(
        True,
        "While pretraining, also fit a linear classifier on the features; its gradient "
        "does not reach the backbone. Needs labels.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,  # the network is the same with or without it
    )
    lineareval_learning_rate: float = fields.loss(
        0.0,
        "Highest learning rate of that classifier, over the mean squared norm of the features: up "
        "to 1 suits every network. 0 uses the network's rate, with which its loss may explode, "
        "since LARS and momentum train it by plain momentum. No effect with adam and lamb.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )

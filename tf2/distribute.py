"""Where a program runs: one device, several of this machine, several machines, or a TPU."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from tf2 import errors

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def make_strategy(
    name: str = "auto",
    *,
    tpu_name: str | None = None,
    tpu_zone: str | None = None,
    gcp_project: str | None = None,
    master: str | None = None,
) -> tf.distribute.Strategy:
    """Returns the strategy of that name, connected and ready for variables.

    Args:
        name: 'auto' mirrors over this machine's GPUs where there are several, else uses one
            device; 'one' uses one device; 'mirrored' uses all GPUs, or without any all logical
            CPU devices; 'multiworker' follows the environment variable TF_CONFIG; 'tpu' connects
            to a TPU.
        tpu_name, tpu_zone, gcp_project: which Cloud TPU.
        master: address of a TPU, in place of its name.

    Raises:
        errors.UserError: the devices asked for aren't there.
    """
    # Collectives must be set up before any device is: logical devices are listed after that.
    gpus = tf.config.list_physical_devices("GPU")
    if name == "tpu":
        return _tpu_strategy(master or tpu_name, tpu_zone, gcp_project)
    if name == "multiworker":
        _check_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy(
            communication_options=tf.distribute.experimental.CommunicationOptions(
                implementation=tf.distribute.experimental.CommunicationImplementation.AUTO
                if gpus
                else tf.distribute.experimental.CommunicationImplementation.RING
            )
        )
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return mirrored([d.name for d in tf.config.list_logical_devices("GPU" if gpus else "CPU")])
    if name in ("auto", "one"):
        return tf.distribute.get_strategy()  # the default: no replication, no overhead
    raise errors.UserError(
        f"--strategy must be one of {', '.join(STRATEGIES)}. Received: strategy={name}."
    )


def build_strategy(config) -> tf.distribute.Strategy:
    """Returns the strategy that a configuration asks for; see `make_strategy`."""
    return make_strategy(
        config.strategy_name,
        tpu_name=config.tpu_name,
        tpu_zone=config.tpu_zone,
        gcp_project=config.gcp_project,
        master=config.master,
    )


def mirrored(devices) -> tf.distribute.MirroredStrategy:
    """Returns a MirroredStrategy over the named devices; CPUs reduce on one of them.

    TensorFlow's collectives, its other way, number their groups per strategy: on CPUs a second
    strategy in a process would take the number of the first and fail.
    """
    on_cpu = all("CPU" in device.upper() for device in devices)
    return tf.distribute.MirroredStrategy(
        devices=list(devices),
        cross_device_ops=tf.distribute.ReductionToOneDevice() if on_cpu else None,
    )


def check_batch(name: str, batch_size: int, replicas: int) -> int:
    """Returns the images per replica of a global batch.

    Raises:
        errors.UserError: the batch can't be shared out evenly.
    """
    if batch_size % replicas:
        raise errors.UserError(
            f"--{name} must be divisible by the number of replicas, {replicas}. Received: "
            f"{name}={batch_size}. Use {max(batch_size // replicas, 1) * replicas}."
        )
    return batch_size // replicas


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files."""
    resolver = strategy.cluster_resolver
    if not several_workers(strategy) or resolver is None:
        return True
    chiefs = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" if chiefs else resolver.task_id == 0


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part, which must do the same at the same steps."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def highest(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns the highest of the workers' values; all workers must call it."""
    if not several_workers(strategy):
        return value

    def spread(mine):
        context = tf.distribute.get_replica_context()
        return tf.reduce_max(context.all_gather(mine[tf.newaxis], axis=0))

    found = strategy.run(tf.function(spread), args=(tf.constant(value, tf.int32),))
    return int(strategy.experimental_local_results(found)[0])


def _tpu_strategy(address, zone, project) -> tf.distribute.TPUStrategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            address, zone=zone, project=project
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # the resolver raises whatever its transport does
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise errors.UserError(
            f"No TPU could be reached ({reason}). Received: tpu_name={address}. Check --tpu_name, "
            "--tpu_zone and --gcp_project, or use --strategy=auto on this machine's own devices."
        ) from error


def _check_tf_config() -> None:
    text = os.environ.get("TF_CONFIG", "")
    try:
        ready = bool(json.loads(text or "{}").get("cluster", {}).get("worker"))
    except (ValueError, AttributeError):
        ready = False
    if not ready:
        raise errors.UserError(
            "--strategy=multiworker needs the environment variable TF_CONFIG with a cluster of "
            f"workers and this task. Received: TF_CONFIG={text!r}. Set it on every worker, or use "
            "--strategy=auto for this machine alone."
        )

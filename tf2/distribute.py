"""Distribution strategies: one device, several devices, several machines, or a TPU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import tensorflow as tf

from tf2 import config as config_lib
from tf2 import errors, machine

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def make_strategy(
    name: str = "auto",
    *,
    tpu_name: str | None = None,
    tpu_zone: str | None = None,
    gcp_project: str | None = None,
    master: str | None = None,
) -> tf.distribute.Strategy:
    """Returns a strategy, connected and ready for variables.

    Args:
        name: 'auto' mirrors over this machine's GPUs if there are several, else uses one device;
            'one' uses one device; 'mirrored' uses all GPUs, or all logical CPU devices if there
            is no GPU; 'multiworker' reads the environment variable TF_CONFIG; 'tpu' connects to a
            TPU.
        tpu_name, tpu_zone, gcp_project: the Cloud TPU.
        master: address of a TPU, instead of its name.

    Raises:
        errors.UserError: the devices are not available.
    """
    # Listing logical devices initializes them, and collectives must be set up before that.
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


def build_strategy(config: config_lib.Config) -> tf.distribute.Strategy:
    """Returns the strategy of a configuration; see `make_strategy`."""
    return make_strategy(
        config.strategy_name,
        tpu_name=config.tpu_name,
        tpu_zone=config.tpu_zone,
        gcp_project=config.gcp_project,
        master=config.master,
    )


def mirrored(devices: Iterable[str]) -> tf.distribute.MirroredStrategy:
    """Returns a MirroredStrategy over these devices; CPUs reduce on one of them.

    With TensorFlow's collectives on CPUs, a second strategy in the same process would reuse the
    group number of the first one and fail.
    """
    devices = list(devices)
    on_cpu = all("CPU" in device.upper() for device in devices)
    return tf.distribute.MirroredStrategy(
        devices=devices,
        cross_device_ops=tf.distribute.ReductionToOneDevice() if on_cpu else None,
    )


def check_batch(name: str, batch_size: int, replicas: int, micro_batches: int = 1) -> int:
    """Returns the batch size per replica.

    Args:
        name: flag of the global batch size, for the error message.
        batch_size: global batch size.
        replicas: number of replicas.
        micro_batches: parts of a replica's batch.

    Raises:
        errors.UserError: the batch size is not divisible by the number of replicas and parts.
    """
    unit = replicas * micro_batches
    if micro_batches > 1 and batch_size % unit:
        raise errors.UserError(
            f"--{name} must be divisible by the number of replicas, {replicas}, times "
            f"--micro_batches. Received: {name}={batch_size}, micro_batches={micro_batches}. Use "
            f"--{name}={max(batch_size // unit, 1) * unit}."
        )
    if batch_size % replicas:
        raise errors.UserError(
            f"--{name} must be divisible by the number of replicas, {replicas}. Received: "
            f"{name}={batch_size}. Use {max(batch_size // replicas, 1) * replicas}."
        )
    return batch_size // replicas


def check_xla(strategy: tf.distribute.Strategy) -> None:
    """Checks that XLA can compile a step: TensorFlow gives it all CPU replicas as one program.

    Raises:
        errors.UserError: they are on several devices, which a program cannot span.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    cpus = [device for device in strategy.extended.worker_devices if "CPU" in device.upper()]
    if len(cpus) > 1:
        raise errors.UserError(
            "XLA compiles a step for one CPU device. Received: jit_compile=True with replicas on "
            f"{len(cpus)} CPU devices. Remove --jit_compile, or use --strategy=one."
        )


def machine_facts(strategy: tf.distribute.Strategy) -> machine.MachineFacts:
    """Returns what this machine has for the replicas of a strategy."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return machine.MachineFacts(device="tpu", replicas=strategy.num_replicas_in_sync)
    # Replicas on one machine's CPU share its memory.
    divided = gpus or is_multi_worker(strategy)
    return machine.read(gpus, strategy.num_replicas_in_sync if divided else 1)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes files."""
    resolver = strategy.cluster_resolver
    if not is_multi_worker(strategy) or resolver is None:
        return True
    chiefs = "chief" in resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" if chiefs else resolver.task_id == 0


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether several processes train together, in lockstep."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def max_over_workers(strategy: tf.distribute.Strategy, value: int) -> int:
    """Returns the maximum of the workers' values; all workers must call it."""
    if not is_multi_worker(strategy):
        return value

    def gather_max(own: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return tf.reduce_max(context.all_gather(own[tf.newaxis], axis=0))

    maximum = strategy.run(tf.function(gather_max), args=(tf.constant(value, tf.int32),))
    return int(strategy.experimental_local_results(maximum)[0])


def _tpu_strategy(
    address: str | None, zone: str | None, project: str | None
) -> tf.distribute.TPUStrategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            address, zone=zone, project=project
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:  # the resolver passes on its transport's exceptions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise errors.UserError(
            f"No TPU could be reached ({reason}). Received: tpu_name={address}. Check --tpu_name, "
            "--tpu_zone and --gcp_project, or use --strategy=auto on this machine's devices."
        ) from error


def _check_tf_config() -> None:
    text = os.environ.get("TF_CONFIG", "")
    try:
        valid = bool(json.loads(text or "{}").get("cluster", {}).get("worker"))
    except (ValueError, AttributeError):
        valid = False
    if not valid:
        raise errors.UserError(
            "--strategy=multiworker needs the environment variable TF_CONFIG with the cluster's "
            f"workers and this task. Received: TF_CONFIG={text!r}. Set it on every worker, or use "
            "--strategy=auto on a single machine."
        )

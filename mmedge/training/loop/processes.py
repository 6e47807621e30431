"""Several processes that train one model together, data parallel, by Hugging Face accelerate; without it there is one.

``accelerate launch -m mmedge …``, ``torchrun``, ``mpirun`` and ``mmedge … --devices N`` set the environment that this
reads. Every process runs the same stages on its part of each batch; what is written, printed and judged is the main
process's. OUT must be a folder that all processes see. Without a GPU ``accelerate launch --num_processes N`` starts a
single process, unless a ``--mpirun_hostfile`` is given: there ``--devices N`` or ``torchrun`` starts several.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmedge.errors import MissingDependency, PeerEnded, UsageError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
LAUNCHER = "MMEDGE_LAUNCHER"  # process id of the ``mmedge`` that started this one
# In the name or the text of what torch.distributed raises: its errors over NCCL and the store have classes, gloo's has none.
_BROKEN = (
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "gloo",
    "Connection closed by peer",
    "remote worker",
)
# How the launchers call the number of processes and a process's own: torch's, Intel MPI's, Open MPI's and MVAPICH's.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_apart = False


def launched() -> bool:
    """Whether this process is one of several."""
    return _number_of(_SIZES, 1) > 1


def count() -> int:
    """How many processes train together; 1 within ``alone``."""
    return 1 if _apart else _number_of(_SIZES, 1)


def rank() -> int:
    """This process's number among them, from 0."""
    return _number_of(_RANKS, 0) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes, prints and judges."""
    return not launched() or _number_of(_RANKS, 0) == 0


def launched_alone() -> bool:
    """Whether ``accelerate launch`` was to start several processes and started this one alone, as it does without a GPU."""
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    return by_accelerate and not any(name in os.environ for name in _SIZES)


def _number_of(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process works by itself, whatever the others do."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block, then the others do, who find what it wrote."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        with together():
            _accelerator().wait_for_everyone()


def of_main(call: Callable[[], T]) -> T:
    """What ``call`` returns in the main process, in every process; the others do not call it. Numbers, texts, dicts of them."""
    if count() == 1:
        return call()
    from accelerate.utils import broadcast_object_list

    box = [call() if is_main() else None]
    with together():
        return broadcast_object_list(box)[0]  # type: ignore[return-value]


def remembered(path: Path, compute: Callable[[], Any]) -> Any:
    """A JSON value that is computed once and kept in ``path``: all processes call ``compute``, or none does; the main one's is everybody's."""
    from mmedge import artifact  # which mmedge run --help does not wait for

    if found := of_main(lambda: artifact.known(path)):
        return found[0]
    made = compute()
    return of_main(lambda: artifact.remembered(path, lambda: made))


def each(value: T) -> list[T]:
    """What every process gave, in their order, in every process; it is pickled on the way."""
    if count() == 1:
        return [value]
    from torch.distributed import all_gather_object

    found: list[Any] = [None] * count()
    with together():
        all_gather_object(found, value)
    return found


def total(value: Any) -> Any:
    """A tensor's sum over the processes."""
    if count() == 1:
        return value
    with together():
        return _accelerator().reduce(value, reduction="sum")


def same(tensors: Mapping[str, Tensor]) -> None:
    """Give every process the main one's tensors, in place."""
    if count() > 1:
        from torch.distributed import broadcast

        device = _accelerator().device
        with together():
            for value in tensors.values():
                sent = value.to(device)  # GPUs send nothing that is not on them
                broadcast(sent, src=0)
                if sent is not value:
                    value.copy_(sent)


def parallel(module: Any) -> Any:
    """``module`` with gradients averaged over the processes (DistributedDataParallel), where there are several."""
    if count() == 1:
        return module
    with together(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # an argument that accelerate passes by its old name
        return _accelerator().prepare_model(module)


def start() -> None:
    """Join the others. An interrupt is the main process's to handle; whoever is left without its launcher ends."""
    if count() == 1:
        return
    if not is_main():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.environ.get(LAUNCHER) == str(os.getppid()):
        threading.Thread(target=_outlived, args=(os.getppid(),), daemon=True).start()
    _accelerator()


def finish() -> None:
    """Leave the others: what follows, the main process does."""
    global _apart
    if count() > 1:
        import torch

        wait()
        torch.distributed.destroy_process_group()
        _apart = True


def _outlived(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextmanager
def together() -> Iterator[None]:
    """A collective fails where another process has ended; that one tells why. Other errors are this process's own."""
    try:
        yield
    except RuntimeError as error:
        if count() > 1 and any(sign in f"{type(error).__name__} {error}" for sign in _BROKEN):
            raise PeerEnded("another process of this training ended; it says why") from error
        raise


@lru_cache
def _accelerator() -> Any:
    import torch

    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError:
        raise MissingDependency(
            "several processes need accelerate, which is not installed", todo="pip install 'mmedge[toolchain]'"
        ) from None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available() and local > torch.cuda.device_count():
        raise UsageError(f"{local} processes are asked for, and there are {torch.cuda.device_count()} GPUs")
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # the recipe says it, and the loop does it
        kwargs_handlers=[
            # A batch may lack a modality, and then its encoder has no gradient. Buffers are equal by synchronised norms.
            DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False),
            # The others wait while the main process quantizes, say.
            InitProcessGroupKwargs(timeout=timedelta(days=7)),
        ],
    )

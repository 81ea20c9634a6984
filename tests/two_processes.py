"""Two processes that train together, as torchrun would start them, for tests."""

import os
import socket
import warnings
from multiprocessing import get_context

import torch

from minivid.training.processes import joined

PRELOADED = ["minivid.training.finetune", "minivid.plots", "torch.distributed.fsdp", "torch.distributed.checkpoint",
             "torch._dynamo"]  # fmt: skip


def _process(rank, port, work, folder, pipe):
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)  # what torch will take away
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in about.items()}
    try:
        with joined():
            found = work(folder)
    except (Exception, SystemExit) as error:
        found = error
    pipe.send(found)


def two_processes(work, folder):
    """What each of two processes returned or raised; None where it was killed."""
    context = get_context("forkserver")  # torch is loaded once, and no thread of ours is copied
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(2):
        mine, theirs = context.Pipe(duplex=False)
        started = context.Process(target=_process, args=(rank, port, work, folder, theirs))
        started.start()
        theirs.close()
        running.append((started, mine))
    found = []
    for started, pipe in running:
        try:
            found.append(pipe.recv() if pipe.poll(100) else None)
        except EOFError:
            found.append(None)
        started.join(10)
        started.kill()
    return found

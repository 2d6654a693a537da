"""The process that imports torch and runs the user's code, one per target.

Requests come in and replies go out as lines of JSON on what were standard input and output when the process started.
Before anything else runs, both are moved to private descriptors: from then on standard output is standard error, so
nothing that the audited code prints, from Python, from C or at exit, can get between the replies.

Requests: ``{"do": "collect", "target": ..., "weights_only": ..., "seed": ...}``, ``{"do": "probe", "id": ...,
"options": {...}}``, the same with ``"weigh"`` or ``"cure"``, ``{"do": "stop"}``. Replies: first ``{"torch":
version}``; then to each request any number of ``{"stage": ...}`` and one of ``{"ids": [...], "instances": [...],
"empty": ...}``, ``{"trace": ...}``, ``{"cure": ...}``, ``{"failed": message, "stage": ...}``, ``{"usage": message}``,
``{"internal": traceback}``.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from initaudit.choices import is_checkpoint
from initaudit.codec import encode
from initaudit.errors import AuditError, InitauditError, UsageError
from initaudit.launcher import launched
from initaudit.runner import ROUND_VARIABLE

if TYPE_CHECKING:
    from initaudit.target.load import Target

Message = dict[str, Any]
Found = dict[str, "Target"]


def main() -> None:
    """Answer requests until told to stop; end at once when the parent is gone."""
    stdin, stdout = _private_channel()
    requests: SimpleQueue[Message] = SimpleQueue()
    threading.Thread(target=_listen, args=(stdin, requests), daemon=True).start()
    faulthandler.enable(all_threads=False)
    found: Found = {}

    def send(message: Message) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        stdout.write(json.dumps(message, allow_nan=False).encode() + b"\n")
        stdout.flush()

    send(_answer(_load_torch))
    while (request := requests.get())["do"] != "stop":
        send(answer(request, found, send))


def answer(request: Message, found: Found, send: Callable[[Message], None]) -> Message:
    """The reply to a request; ``found`` keeps what was collected, ``send`` tells of the steps on the way."""
    if request["do"] == "collect":
        return _answer(lambda: _collect(request["target"], found, request["weights_only"], request["seed"]))
    work = {"probe": _probe, "weigh": _weigh, "cure": _cure}[request["do"]]
    return _answer(lambda: work(found[request["id"]], request["options"], send))


def _private_channel() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output as private streams; in their place come the null device and standard error."""
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What was printed before a crash shall be seen, and printing never fails for its encoding.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return stdin, stdout


def _listen(stdin: BinaryIO, requests: SimpleQueue[Message]) -> None:
    for line in stdin:
        requests.put(json.loads(line))
    os._exit(1)  # the parent has died, and whatever runs here has no one to report to


def _answer(work: Callable[[], Message]) -> Message:
    """The reply of ``work``, or what kept it from giving one."""
    try:
        return work()
    except UsageError as error:
        return {"usage": str(error)}
    except AuditError as error:
        return {"failed": str(error), "stage": error.stage}
    except InitauditError as error:
        return {"failed": str(error)}
    except SystemExit as error:
        return {"failed": _exit_message(error)}
    except KeyboardInterrupt:  # the user's own goes to the process that waits for this one
        return {"failed": "the code raised KeyboardInterrupt; let it raise an Exception instead"}
    except BaseException:
        return {"internal": traceback.format_exc()}


def _exit_message(error: SystemExit) -> str:
    from initaudit.target.frames import user_location  # imports torch, which is there when user code runs

    message = f"the code called sys.exit({error.code!r}); let it return or raise an exception instead"
    return f"{message}\n  at {location}" if (location := user_location(error)) else message


def _load_torch() -> Message:
    """Import what takes seconds before the clock of the first request runs."""
    gc.disable()  # nothing that is imported becomes garbage, and to look for some takes a tenth of the time
    try:
        import torch
    except Exception as error:
        raise AuditError("load", f"import torch failed: {error}; install PyTorch in this environment") from error
    import initaudit.engine
    import initaudit.target.load  # noqa: F401

    gc.freeze()
    gc.enable()
    return {"torch": torch.__version__}


def _collect(target: str, found: Found, weights_only: bool, seed: int) -> Message:
    from initaudit.probe.restore import random_state
    from initaudit.target import load
    from initaudit.weights_only import collect_weights

    if is_checkpoint(target) and not weights_only:
        raise UsageError(f"{target} is a checkpoint, which holds weights and no model to run: add --weights-only")
    with random_state(seed):  # models and inputs that the file makes on import are random, too
        models = collect_weights(target) if weights_only else load.collect(target)
    found.update((model.id, model) for model in models)
    return {
        "ids": [model.id for model in models],
        "instances": [model.id for model in models if not model.is_factory],
        "empty": "" if models else load.explain_nothing(target),
    }


def _probe(target: Target, options: Message, send: Callable[[Message], None]) -> Message:
    from initaudit.engine import probe_target

    if launched().size > 1:
        join_ranks()
        options = options | {"distributed": True}
    trace = probe_target(target, **options, progress=lambda stage: send({"stage": stage}))
    return {"trace": encode(trace)}


def join_ranks() -> None:
    """Make this process one of the group that ``torchrun`` has started, unless the user's file has done so.

    The store is that of the launcher, which outlives the worker: each of them meets the others under a name of its own.
    """
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    if dist.is_initialized():
        return
    ranks = launched()
    both = torch.cuda.is_available() and dist.is_nccl_available()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", ranks.rank)) % torch.cuda.device_count())
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        ranks.size,
        is_master=ranks.rank == 0 and not hosted,
        wait_for_workers=not hosted,
    )
    name = f"initaudit/{os.environ.get(ROUND_VARIABLE, '0')}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if both else "gloo",
        store=PrefixStore(name, store),
        rank=ranks.rank,
        world_size=ranks.size,
    )
    atexit.register(dist.destroy_process_group)


def _weigh(target: Target, options: Message, send: Callable[[Message], None]) -> Message:
    from initaudit.weights_only import read_weights

    return {"trace": encode(read_weights(target, **options, progress=lambda stage: send({"stage": stage})))}


def _cure(target: Target, options: Message, send: Callable[[Message], None]) -> Message:
    from initaudit.curing import cure_target

    if launched().size > 1:
        raise UsageError("fix works in one process: start it without torchrun")
    return {"cure": encode(cure_target(target, **options, progress=lambda stage: send({"stage": stage})))}

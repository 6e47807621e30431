"""mmedge makes a large multimodal model into a small engine for an edge device, and proves, stage by stage, what it kept.

Somebody with a trained model and data needs a few lines; what is not said has a default that is measured, not guessed:

    import mmedge

    small = mmedge.prune(model, loader)                  # narrower, recovered, as accurate and faster, or the same
    small = mmedge.quantize(small)                       # FP32, FP16, INT8, a mix: the fastest that loses nothing
    bundle = mmedge.export(small, "bundle", backends=["openvino-cpu"])
    engine = mmedge.load("bundle")                       # on the device, without torch
    engine.predict(image=image, audio=audio).label

The verbs, each with a page of its own below (``help(mmedge.prune)``):

    distill(student, teacher, data)   teach a smaller network, and tell by controls what the teacher was worth
    prune(model, data)                take channels and attention heads out, and recover
    quantize(model_or_onnx, data)     make precisions, judge and time them, keep the best
    export(model, path, data)         build engines and write the bundle that ships
    profile(model, *against)          time models in turn: latency, memory, energy, layers
    run(recipe, out)                  all of it, as a recipe says, with a report that judges every stage
    load(bundle)                      open what ships: an engine with ``predict`` and ``run``
    samples(data, ...)                data with what it does not say itself: names, classes, groups, preprocessing

``model`` is an ``nn.Module``, ``"module:factory"`` with ``weights``, an ONNX file, or what a call returned; it stays as
it is. ``data`` is a torch ``DataLoader`` or ``Dataset``, a ``datasets.Dataset``, a pandas or polars frame, {name: array}
or a file. ``out`` is the folder to write to, a temporary one, which is told, where none is named: a repeated call takes
what is unchanged from there. ``seed`` makes a call repeatable; ``progress=False`` makes it silent.

Results (``Model``, ``QuantizedFile``, ``Bundle``, ``Profile``, ``Run``) show their figures where they are printed, hold
them as ``result.figures``, and have ``result.verdict``, ``result.report()``, the page, ``result.save(path)`` and, of
models, ``result.module`` and ``result.onnx``. The same verbs are commands (``mmedge --help``) and stages of recipes,
which are the same code. Errors are classes of ``mmedge.errors``: what, where, and what to do.
"""

import os

__version__ = "0.2.0"

# ONNX Runtime from 1.31 on reports to its maker what it runs, unless it is told before it is first imported. Who wants
# that says ORT_DISABLE_TELEMETRY=0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = (
    "Bundle",
    "Model",
    "Profile",
    "QuantizedFile",
    "Run",
    "distill",
    "export",
    "load",
    "profile",
    "prune",
    "quantize",
    "run",
    "samples",
)
__all__ = [name for name in _PUBLIC if name.islower()]  # what ``help`` tells of: results speak where they are printed


def __getattr__(name: str) -> object:
    """The public functions and what they return, imported when they are first used: ``import mmedge`` stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mmedge' has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module("mmedge.api"), name)
    return found


def __dir__() -> list[str]:
    """What an editor completes."""
    return sorted([*globals(), *_PUBLIC])

"""mmedge makes a large multimodal model into a small engine for an edge device, and proves, stage by stage, what it kept.

Somebody with a trained model and data needs a few lines; what is not said has a default that is measured, not guessed:

    import mmedge

    small = mmedge.prune(model, loader)                  # narrower, recovered, as accurate and faster, or the same
    small = mmedge.quantize(small)                       # FP32, FP16, INT8, a mix: the fastest that loses nothing
    bundle = mmedge.export(small, "bundle", backends=["openvino-cpu"])
    engine = mmedge.load("bundle")                       # on the device, without torch
    engine.predict(image=image, audio=audio).label

``model`` is an ``nn.Module``, ``"module:factory"`` with ``weights``, an ONNX file, or what a call returned. ``loader``
is a torch ``DataLoader`` or ``Dataset``, a ``datasets.Dataset``, a pandas or polars frame, {name: array} or a file:
see ``samples``. A student that is smaller by design is taught by ``mmedge.distill(student, model, loader)``.

Results show their figures where they are printed, hold them as ``result.figures``, and have ``result.report()``, the
page, ``result.save(path)`` and, of models, ``result.module`` and ``result.onnx``. The same verbs are commands
(``mmedge --help``) and stages of recipes (``mmedge.run``), which are the same code. Errors are classes of
``mmedge.errors``: what, where, and what to do.
"""

__version__ = "0.2.0"

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
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> object:
    """The public functions and what they return, imported when they are first used: ``import mmedge`` stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mmedge' has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module("mmedge.api"), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])

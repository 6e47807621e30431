"""The runtime: load a bundle and predict. Imports neither torch nor click nor nncf nor onnx; fits on the device.

import mmedge.runtime
engine = mmedge.runtime.load("bundle")
engine.predict(image="digit.png", audio="digit.wav").label
"""

from mmedge.runtime.engine import Engine, load
from mmedge.tasks import Prediction

__all__ = ["Engine", "Prediction", "load"]

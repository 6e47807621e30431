from mmedge import errors as errors
from mmedge.api import Bundle as Bundle
from mmedge.api import Model as Model
from mmedge.api import Profile as Profile
from mmedge.api import QuantizedFile as QuantizedFile
from mmedge.api import Run as Run
from mmedge.api import distill as distill
from mmedge.api import export as export
from mmedge.api import load as load
from mmedge.api import profile as profile
from mmedge.api import prune as prune
from mmedge.api import quantize as quantize
from mmedge.api import run as run
from mmedge.api import samples as samples

__version__: str

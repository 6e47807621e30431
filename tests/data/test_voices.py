"""Synthetic voices."""

import subprocess
import sys

from tests.conftest import child_environment

SPEAK = """
import hashlib
from mmedge.data.builtin import voices
say, _, variants = voices.espeak(seed=3)
print(hashlib.sha256(b"".join(say("seven", f"en-us+{name}", 180, 50).tobytes() for name in variants[:6])).hexdigest())
"""


def test_one_seed_speaks_the_same_samples_in_every_process():
    spoken = [
        subprocess.run([sys.executable, "-c", SPEAK], env=child_environment(), capture_output=True, check=True).stdout
        for _ in range(2)
    ]
    assert len(spoken[0].strip()) == 64 and spoken[0] == spoken[1]

"""Encoder of sounds: bands over frames are a picture of one channel."""

from __future__ import annotations

from mmedge.models.encoders.image import build as build

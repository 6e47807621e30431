"""mmedge distils a multimodal fusion model into a small engine and proves, stage by stage, what it kept."""

__version__ = "0.2.0"

"""What a run tells: the models of its documents, and how they are drawn."""

# The bounds of a 95 % interval; and figures by what they are of, as a subset of the modalities.
Interval = tuple[float, float]
Figures = dict[str, float]

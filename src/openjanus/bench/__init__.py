"""What a model does on a machine: seconds, tokens, pictures, memory, and bytes read.

``measure`` runs everything and gives a ``Result``; ``ours`` and ``transformers`` are who can be
measured, ``inputs`` what both are given, ``machine`` what they run on, ``result`` what is written.
"""

from openjanus.bench.inputs import BenchOptions
from openjanus.bench.measure import measure
from openjanus.bench.result import Result

__all__ = ["BenchOptions", "Result", "measure"]

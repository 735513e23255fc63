"""Facts of the Janus family as files, and whether an implementation keeps them.

``kit`` writes a small random checkpoint with what must come out of it and checks an implementation
against such a kit; ``vectors`` (what is held to and why), ``inputs`` and ``lessons`` (what is
asked), ``openjanus`` and ``transformers`` (who answers), ``compare`` (by how much they differ),
``files`` (how a kit lies on disk).
"""

from openjanus.conformance.kit import Report, check_kit, write_kit

__all__ = ["Report", "check_kit", "write_kit"]

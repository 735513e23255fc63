"""Models on disk. ``own`` is our format; its key table is the authors' checkpoint names."""

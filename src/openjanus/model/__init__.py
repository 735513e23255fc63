"""All modules of a Janus, readable in an hour; start at ``janus.py``.

One legend of shapes for the whole project:

    B batch, T tokens, D hidden_size, H heads, K head_dim, V text vocabulary, C codebook size,
    N image tokens an image, S image side in pixels.

In ``siglip.py`` and in the aligners C also names the width of an encoder's features, as their
papers do; where both meet, the docstring says which. Masks are bool, True = attend.
"""

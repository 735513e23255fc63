"""The synchronous step machine that draws and answers: ``add``, ``step``, ``cancel``.

Read in this order: ``request`` (what goes in and comes out), ``sampling`` and ``noise`` (pure
functions), ``scheduler`` (who sits where; no torch), ``sampler`` and ``page`` (the batched decode
step), ``look_ahead`` and ``image_page`` (several ids of a drawing in one step), ``course`` and
``compose_page`` (words and pictures in turn), ``engine`` (the machine),
``scoring`` (log-probabilities of given ids). No HTTP, no asyncio, no
threads, and no text tokenizer: requests hold plain ids.
"""

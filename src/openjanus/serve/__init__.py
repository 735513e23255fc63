"""The server: OpenAI's protocol for words and pictures over one engine.

``server`` (uvicorn, signals, logs), ``connection`` (slow ones), ``app`` (routes; the only module
that knows FastAPI), ``gate`` (who is let in, before a body is read), ``admission`` (how many),
``room`` (the engine's thread and a thread for each request), ``chat`` and ``images`` (requests to
work, results to answers), ``pictures`` and ``fetch`` (what clients send to look at), ``schema``
(bodies), ``page`` (the files of the web page, which lie in ``web/``), ``errors``, ``store``,
``metrics``, ``options``. Threads and asyncio live here only.
"""

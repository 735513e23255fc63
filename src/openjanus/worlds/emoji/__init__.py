"""The emoji world: scenes of everyday things in GenEval's grammar, known exactly, so checkable.

Its rooms, in reading order: `concepts` (the words), `fetch` and `sprites` (the artwork), `scenes`
(what a scene is), `cells` (what training never sees), `sampling` (scenes at random), `captions`,
`questions` and `text` (what is said about them), `prompts`, `described` and `checks` (what somebody
asks for, read back: to judge it, to show it, to ask a model about it), `indexed` and `source`
(deterministic data) and `sheet` (a look at it). Beside them lies what the first nano did not have:
`commands`, `dialogues` and `everyday` (everyday words), `charts`, `stories`, `chinese`, `easy_vqa`.
"""

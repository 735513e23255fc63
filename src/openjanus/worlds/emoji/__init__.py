"""The emoji world: scenes of everyday things in GenEval's grammar, known exactly, so checkable.

Its rooms, in reading order: `concepts` (the words), `vocabulary` (which of the two worlds has
them), `fetch`, `fetch_wide` and `sprites` (the artwork), `scenes` (what a scene is), `cells` (what
training never sees), `layout` and `wide_layout` (where things lie), `asked_scenes` and `sampling`
(scenes asked for, and at random), `captions`, `absence`, `questions` and `text` (what is said about
them), `prompts`, `described` and `checks` (what somebody asks for, read back: to judge it, to show
it, to ask a model about it), `scene_options`, `indexed`, `turns` and `source` (deterministic data)
and `sheet` (a look at it). Beside them lies what the first nano did not have: `commands`,
`dialogues` and `everyday` (everyday words), `charts`, `stories`, `chinese` and `easy_vqa`.
"""
